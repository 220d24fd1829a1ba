"""What the process of a cell tells its engine while it works."""

from __future__ import annotations

import time
from collections.abc import Callable

from stable_baselines3.common.callbacks import BaseCallback

Report = Callable[[int], None]
"""Called now and then with the steps of the cell so far."""

REPORT_SECONDS = 1.0


class Throttled(BaseCallback):
    """Reports the steps so far about once a second."""

    def __init__(self, report: Report, before: int = 0) -> None:
        super().__init__()
        self._report, self._before, self._last = report, before, 0.0

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self._last >= REPORT_SECONDS:
            self._last = now
            self._report(self._before + self.model.num_timesteps)
        return True
