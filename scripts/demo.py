"""The main use case from start to finish: peers and SB3's SAC on HalfCheetah-v5, with a figure, a table and a video.

    make demo        # or: python scripts/demo.py --help

The best learning rate is unknown in advance, and SB3's default is a bad one here. Four peers with rates that span a
factor of 30 share one replay and distil from one another; environment steps go to the best of them. SB3's agent has the
same networks and steps, and its default rate. This is one seed of BENCHMARK.md's question 2, which has ten.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tyro

from policykd import DualStudent
from policykd.benchmark.compare import CompareOptions, compare
from policykd.benchmark.own_cell import AGENT
from policykd.cli import guarded
from policykd.measure.video import record_video

RATES = 1e-4, 3e-4, 1e-3, 3e-3
VIDEO_STEPS = 250
SMALL = {"width": 320, "height": 240}  # rendering without a GPU takes up to 0.1 s per frame


def main(options: CompareOptions) -> None:
    """Train both sides, then show the results."""
    out = _free(options.out)
    spec, table = compare(replace(options, out=out))
    print(f"\n{table}")
    agent = DualStudent.load(out / "runs" / spec.cells[0].name / "run" / AGENT, options.env)
    best = agent.learner_index("best")
    print(f"recording peer {best + 1}, the best one in the last evaluation ...", flush=True)
    video = record_video(
        options.env,
        lambda observation: agent.predict(observation, learner=best)[0],
        out / "best_peer.mp4",
        seed=options.seed,
        steps=VIDEO_STEPS,
        env_kwargs=SMALL,
    )
    print(f"picture  {out / 'learning_curves.png'}\ntable    {out / 'table.md'}\nresults  {out / 'results'}")
    print(f"video    {video or 'none: no way to draw here (see the message above)'}\nruns     {out / 'runs'}")


def _free(folder: Path) -> Path:
    """The folder, or the first of folder_2, folder_3 ... that does not exist, so that the demo can be repeated."""
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}_{number}")
    return free


if __name__ == "__main__":
    demo = CompareOptions(backbone="sac", method="mutual_shared", peers=4, learning_rates=RATES, preset="peers")
    demo = replace(demo, updates=1, random_steps=5_000, total_timesteps=50_000, evaluations=10, out=Path("runs/demo"))
    guarded(lambda: main(tyro.cli(CompareOptions, default=demo, description=__doc__)))
