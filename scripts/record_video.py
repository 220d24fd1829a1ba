"""Record one episode of the best learner of a run as MP4.

python scripts/record_video.py runs/train_peers --out episode.mp4
"""

from pathlib import Path

import tyro

from policykd.cli import guarded
from policykd.errors import PolicyKDError
from policykd.measure.video import record_video
from policykd.training.loading import load_agent


def main(
    run: tyro.conf.Positional[Path],
    env: str | None = None,
    out: Path = Path("episode.mp4"),
    steps: int = 1_000,
    seed: int = 0,
) -> None:
    if out.exists():
        raise PolicyKDError(f"video: {out} exists: choose another --out")
    agent = load_agent(run, env)
    video = record_video(agent.env_id, agent.player("best"), out, seed=seed, steps=steps)
    print(f"video {video}" if video else "no video: this machine cannot render (see the message above)")


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
