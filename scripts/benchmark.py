"""A small benchmark with statistics: peers, independent learners and SB3 on several seeds; finished cells are skipped.

    python scripts/benchmark.py --tasks InvertedPendulum-v5 Reacher-v5 --steps 20000 --seeds 5

For larger benchmarks, write a file: policykd benchmark benchmarks/smoke.yaml
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro
import yaml

from policykd.benchmark.matrix import MatrixOptions, run_matrix
from policykd.benchmark.random_actions import measured_reference
from policykd.benchmark.report import write_page
from policykd.benchmark.results import Results
from policykd.benchmark.statistics import summarise
from policykd.cli import guarded


def main(
    tasks: tuple[str, ...] = ("InvertedPendulum-v5",),
    steps: int = 10_000,
    seeds: int = 3,
    methods: tuple[str, ...] = ("sb3", "independent", "dpd"),
    high: float | None = None,  # the return that counts as 1; default: the task's reward threshold, if it has one
    out: Path = Path("runs/benchmark"),
) -> None:
    spec: dict[str, Any] = {
        "name": "own",
        "total_timesteps": steps,  # of a whole pair of peers, and of SB3's single agent
        "seeds": seeds,
        "evaluations": 10,
        "n_eval_episodes": 5,
        "final_episodes": 20,  # the episodes compared, from new initial states
        "settings": {"net_arch": [64, 64], "learning_starts": min(500, steps // 4), "batch_size": 64},
        "methods": list(methods),
        "tasks": {},
    }
    for task in tasks:  # scores: 0 is a random policy, 1 is a return of `high`
        reference = measured_reference(task, 20, seed=0)
        if high is not None:
            reference |= {"high": high, "source": "random actions; given by --high"}
        spec["tasks"][task] = {"backbones": ["td3"], "reference": reference}
    with TemporaryDirectory() as folder:  # the results keep a copy once it is validated
        file = Path(folder) / "spec.yaml"
        file.write_text(yaml.safe_dump(spec, sort_keys=False))
        failed = run_matrix(file, MatrixOptions(out=str(out / "results"), work=out / "runs"))
    results = Results(out / "results")
    write_page(summarise(results), results, out / "report.html")
    print(f"page {out / 'report.html'}" + (f"; failed: {', '.join(failed)}" if failed else ""))


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
