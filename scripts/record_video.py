"""Record one episode of the best learner of a run as MP4.

python scripts/record_video.py runs/train_peers --out episode.mp4
"""

from pathlib import Path
from typing import Annotated

import tyro

from policykd.measure.video import record_video
from policykd.training.loading import load_agent


def main(
    run: Annotated[Path, tyro.conf.arg(name="")], out: Path = Path("episode.mp4"), steps: int = 1_000, seed: int = 0
) -> None:
    agent = load_agent(run)
    video = record_video(
        agent.env_id,
        agent.player("best"),
        out,
        seed=seed,
        steps=steps,
    )
    print(f"video {video}" if video else "no video: this machine cannot render (see the message above)")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
