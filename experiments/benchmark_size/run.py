"""How long do plan and page of a large benchmark take, and how large is the page? Measured on made-up results.

    python -m experiments.benchmark_size.run

Two matrices: 500 cells to plan and skip; 10 tasks x 10 methods x 10 seeds x 100 evaluations to show. Prints what it
measured; nothing is kept.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import tyro
import yaml

from experiments.benchmark_size.simulated import simulate
from policykd.benchmark.matrix import plan
from policykd.benchmark.report import write_page
from policykd.benchmark.results import Results
from policykd.benchmark.spec_file import parse_spec
from policykd.benchmark.statistics import summarise
from policykd.cli import guarded

TASKS = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "Swimmer", "Reacher", "Pusher", "InvertedPendulum")
METHODS = ("sb3", "single", "independent", "share_replay", "mutual", "one_way", "dpd", "dpd_hard", "dpd_shared")


def spec_text(tasks: int, methods: int, evaluations: int, backbones: tuple[str, ...]) -> str:
    """A spec of so many tasks and methods; what is more than there are gets numbers."""
    names = [f"{name}-v5" for name in TASKS] + ["InvertedDoublePendulum-v5", "HumanoidStandup-v5"]
    reference = {"low": 0.0, "high": 1000.0, "source": "made up"}
    entries: dict[str, dict[str, str]] = {name: {} for name in METHODS} | {
        f"dpd_{n}": {"method": "dpd"} for n in range(methods)
    }
    return yaml.safe_dump(
        {
            "name": "made_up",
            "summary": "Made-up results.",
            "total_timesteps": 100 * evaluations,
            "seeds": 10,
            "evaluations": evaluations,
            "n_eval_episodes": 5,
            "final_episodes": 20,
            "tasks": {name: {"backbones": list(backbones), "reference": reference} for name in names[:tasks]},
            "methods": dict(list(entries.items())[:methods]),
        },
        sort_keys=False,
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = spec_text(10, 25, 4, ("ddpg", "td3"))
        results = Results(Path(folder) / "500")
        spec = parse_spec(text)
        results.begin(spec, text)
        simulate(spec, results)
        started = time.perf_counter()
        planned = plan(parse_spec(text), results)
        seconds = time.perf_counter() - started
        print(f"plan of {len(planned.cells)} cells, {len(planned.done)} of them done: {seconds:.2f} s")

        text = spec_text(10, 10, 100, ("td3",))
        results, page = Results(Path(folder) / "large"), Path(folder) / "report.html"
        spec = parse_spec(text)
        results.begin(spec, text)
        simulate(spec, results)
        started = time.perf_counter()
        write_page(summarise(results), results, page)
        seconds = time.perf_counter() - started
        print(f"page of 10 tasks x 10 methods x 10 seeds x 100 evaluations: {seconds:.1f} s, ", end="")
        print(f"{page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
