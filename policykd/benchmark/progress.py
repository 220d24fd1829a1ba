"""Progress that a cell's process reports to its engine."""

from __future__ import annotations

import time
from collections.abc import Callable

from stable_baselines3.common.callbacks import BaseCallback

Report = Callable[[int], None]
"""Called from time to time with a cell's completed steps."""

REPORT_SECONDS = 1.0


class Throttled(BaseCallback):
    """Reports the completed steps about once a second."""

    def __init__(self, report: Report, before: int = 0) -> None:
        super().__init__()
        self._report, self._before, self._last = report, before, 0.0

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self._last >= REPORT_SECONDS:
            self._last = now
            self._report(self._before + self.model.num_timesteps)
        return True
