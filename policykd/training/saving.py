"""Saving an agent as a checkpoint, and restoring it so that training resumes bit by bit."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TypeVar

import torch

from policykd import native
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.files import CHECKPOINT, checkpoint_path
from policykd.core.memory import require_disk
from policykd.core.networks import load_state_tensors, state_tensors
from policykd.learners import Learner
from policykd.memory import SharedReplay
from policykd.tasks.batched import BatchedEnvs
from policykd.tasks.vector import LearnerEnvs
from policykd.training import snapshot
from policykd.training.acting import Acting
from policykd.training.arguments import Compile
from policykd.training.run_folder import CONFIG, RunFolder
from policykd.training.sb3_interface import explains_arguments

log = logging.getLogger("policykd")
S = TypeVar("S", bound="Saving")


class Memory(Protocol):
    """A replay, rollout or data set that goes into checkpoints."""

    def state(self) -> dict[str, Any]:
        """The content as arrays and plain values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the content from what ``state`` returned."""


class OwnParts(NamedTuple):
    """Custom parts of an agent, to be passed to ``load``: a checkpoint names them but does not hold them."""

    method: Any = None
    backbone: type[Learner] | None = None
    config: dict[str, Any] | None = None
    """Functions, by setting."""

    def resolve(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments of an agent, from saved settings and these parts.

        Raises:
            PolicyKDError: a part is missing, or is not the run's.
        """
        return {
            "method": self.method or settings["method"],
            "backbone": self.backbone or settings["backbone"],
            "seeds": settings["seeds"],
            "config": snapshot.with_own_parts(settings["config"], self.config),
        }


class Saving(Acting):
    """Saving and restoring of an agent."""

    compile: Compile
    memories: dict[str, Memory]
    streams: snapshot.Streams
    _resumed: dict[str, Any] | None

    if TYPE_CHECKING:

        def get_env(self) -> LearnerEnvs | BatchedEnvs: ...  # noqa: D102

        def _folder(self, path: str | Path) -> RunFolder: ...

    def __getstate__(self) -> NoReturn:
        """Refused: environments, open files and compiled code cannot be copied (pickle and ``copy.deepcopy`` ask).

        Raises:
            PolicyKDError: always.
        """
        kind = type(self).__name__
        raise PolicyKDError(f"{kind}: an agent cannot be pickled or copied: use save(path) and {kind}.load(path)")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that identify this run, as plain values: equal settings mean the same run."""
        return {
            "env": self.env_id,
            "method": self.method_name,
            "backbone": self.backbone,
            "peers": self.peers,
            "seeds": list(self.seeds),
            "config": snapshot.plain(self.config),
        }

    def buffer_folder(self) -> Path:
        """Folder of an on-disk replay: the run folder, or else the folder for temporary files."""
        ours = self.folder is not None and os.access(self.folder.path, os.W_OK)  # others' runs are only looked at
        return self.folder.path if self.folder and ours else Path(tempfile.gettempdir())

    def check_disk(self, run_dir: Path) -> None:
        """Raise if an on-disk replay does not fit on the disk of the run folder."""
        replay = self.memories.get("replay")
        if isinstance(replay, SharedReplay) and replay.folder is not None:
            require_disk(replay.nbytes, run_dir, f"replays of {replay.capacity:,} transitions", "buffer_size")

    def _checkpoint(self) -> None:
        if self.folder is not None:
            self.folder.check()
            self.save(self.folder.checkpoint, include_replay=True)

    @explains_arguments
    def save(self, path: str | Path, include_replay: bool = False) -> None:
        """Write the agent to ``path`` (``.safetensors`` if it has no ending), whole or not at all.

        Args:
            path: the file.
            include_replay: also write the replay and the environments' states, which exact resumption needs.
        """
        checkpoint.save(checkpoint_path(path), self._state(include_replay))

    def _state(self, include_replay: bool) -> dict[str, Any]:
        """The full state of an agent; with the replay also the environments, so that training resumes bit by bit."""
        state: dict[str, Any] = {
            "settings": self.settings,
            "made_by_id": self.made_by_id,
            "compile": self.compile,
            "computed_by": self.computed_by,
            **self.run.state(),
            **self.recipe.state(),
            "learner": state_tensors(self.learner),
            "generators": snapshot.streams_state(self.streams),
            "extra": self.extra_state(),
        }
        if include_replay:
            state |= {name: memory.state() for name, memory in self.memories.items()}
            state |= {
                "span": list(self.run.span),
                "pending": self.run.pending,
                "envs": snapshot.envs_state(self.get_env()),
                "last_observations": self.collector.observations,
                "episode_starts": self.collector.starts,
                "log_sizes": {} if self.folder is None else self.folder.log_sizes(),
            }
        return state

    def extra_state(self) -> dict[str, Any]:
        """State of this kind of agent, saved in addition to that of every agent."""
        return {}

    def _restore(self: S, path: Path, loaded: dict[str, Any]) -> S:
        """Restore a checkpoint's content; one in a run folder makes the agent go on writing there."""
        if (before := loaded["computed_by"]) != self.computed_by:
            log.warning(
                "computed by %s before and by %s now: results are equal up to rounding", before, self.computed_by
            )
        if "envs" in loaded:
            names = "envs", "last_observations", "episode_starts", "log_sizes"
            self._resumed = {name: loaded[name] for name in names if name in loaded}
            if path.name == CHECKPOINT and (path.parent / CONFIG).is_file():  # else a file that is only called so
                self.folder = self._folder(path.parent)
        self.run.restore(loaded)
        try:
            load_state_tensors(self.learner, loaded["learner"])
        except PolicyKDError as error:
            trained = loaded["settings"]["env"]
            what = "" if trained == self.env_id else f": it was trained on {trained}, which {self.env_id} is not"
            raise PolicyKDError(f"{error}{what}") from None
        snapshot.restore_streams(self.streams, loaded["generators"])
        self.recipe.restore(loaded)
        for name, memory in self.memories.items():
            if name in loaded:
                memory.restore(loaded[name])
        return self

    @property
    def computed_by(self) -> str:
        """Backend, torch version and device, which must be the same for bit-identical resumption."""
        return f"{'native' if not native.reason() else 'torch'}, torch {torch.__version__}, {self.device.type}"
