"""States that somebody met before, with what was done there, as a data set: from files, replays and demonstrations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch.utils.data import TensorDataset

from policykd.core.archives import RATIO, SPARE, Archive, read_npz
from policykd.core.errors import PolicyKDError, one_line, telling
from policykd.core.extras import needs
from policykd.core.memory import require_memory
from policykd.tasks.flat import is_laid_out
from policykd.tasks.groups import OwnSpace, flatten
from policykd.tasks.spaces import ActionScale, Choices

OBSERVATIONS, ACTIONS = ("observations", "obs", "states"), ("actions", "acts")
"""What files call them, and which episode each state is of is called ``episodes``."""


def starts_of(episodes: np.ndarray) -> np.ndarray:
    """Whether a state is the first of its episode ``(n,)``, of which each one's number is told."""
    return np.append(True, episodes[1:] != episodes[:-1])


class LoggedStates(NamedTuple):
    """States, and the actions that were taken there: in any order, or episode after episode."""

    observations: np.ndarray
    """Raw ``(n, O)``, float32."""
    actions: np.ndarray | None = None
    """``(n, A)``, or numbers of actions ``(n,)`` where one is chosen; None where they were not kept."""
    scaled: bool = False
    """Whether actions are in [-1, 1], or vectors of 1 at the choice; else they are in the task's units."""
    source: str = "the data"
    """What to call it in errors."""
    episodes: np.ndarray | None = None
    """Which episode a state is of ``(n,)``, those of one together, in the order in which they were met; None where
    nobody says."""

    @staticmethod
    def read(source: Any, space: OwnSpace | None = None) -> LoggedStates:
        """The states of whatever holds some.

        Args:
            source: an ``.npz`` file of ``observations`` and ``actions`` (``obs`` and ``acts``: imitation's); an HDF5
                file as D4RL's, or Minari's (or its folder); a replay buffer of SB3, or the model that has one;
                ``Demonstrations``; a mapping of arrays; or ``LoggedStates``.
            space: of the task, where it gives dicts or boxes of several axes: they become vectors (docs/groups.md).

        Raises:
            PolicyKDError: it holds no states, or cannot be read; nothing in a file is run.
        """
        if isinstance(source, LoggedStates):
            return source.checked(space)
        if isinstance(source, str | Path):
            return _from_file(Path(source).expanduser()).checked(space)
        source = getattr(source, "replay_buffer", None) or source
        if hasattr(source, "buffer_size") and hasattr(source, "pos"):
            return _from_sb3(source, space).checked()
        if isinstance(source, Mapping):
            return _from_arrays(source, "a mapping", space).checked(space)
        if isinstance(getattr(source, "observations", None), np.ndarray):
            actions, name = getattr(source, "actions", None), f"a {type(source).__name__}"
            episodes = getattr(source, "episodes", None)
            return LoggedStates(source.observations, actions, True, name, episodes).checked(space)
        raise PolicyKDError(f"states: a {type(source).__name__} holds none; see docs/offline.md for what does")

    def checked(self, space: OwnSpace | None = None) -> LoggedStates:
        """The same with observations as vectors of float32.

        Args:
            space: of the task, where its observations have several axes.

        Raises:
            PolicyKDError: they are no vectors, not finite, or not as many as actions; or these are no finite numbers.
        """
        observations, count = np.asarray(self.observations), len(self.observations)
        if isinstance(space, spaces.Box) and observations.shape[1:] == space.shape:
            observations = observations.reshape(count, -1)
        if observations.ndim != 2 or not observations.size or observations.dtype.kind not in "fiub":
            raise PolicyKDError(f"states: {self.source} has observations of shape {observations.shape}, not (n, O)")
        if self.actions is not None and np.asarray(self.actions).dtype.kind not in "fiub":
            kind = np.asarray(self.actions).dtype
            raise PolicyKDError(f"states: {self.source} has actions of type {kind}: give numbers")
        if self.actions is not None and (len(self.actions) != count or not np.isfinite(self.actions).all()):
            raise PolicyKDError(f"states: {self.source} has not one finite action for each of {count:,} observations")
        if not np.isfinite(observations).all():
            raise PolicyKDError(f"states: {self.source} has observations that are not finite")
        episodes = None if self.episodes is None else np.asarray(self.episodes)
        if episodes is not None and episodes.shape not in ((count,), (count, 1)):
            episodes = None  # something else that is called so: a number of them, or their lengths
        episodes = None if episodes is None else episodes.reshape(count)
        return self._replace(observations=np.array(observations, np.float32), episodes=episodes)

    def starts(self) -> np.ndarray:
        """Whether a state is the first of its episode ``(n,)``.

        Raises:
            PolicyKDError: which states are of one episode is not known, or those of one do not follow one another.
        """
        if self.episodes is None:
            raise PolicyKDError(
                f"states: {self.source} does not say which of them are of one episode, which whoever remembers must "
                "know: give Demonstrations, or their episodes (n,) beside observations"
            )
        starts = starts_of(self.episodes)
        if starts.sum() != len(np.unique(self.episodes)):
            raise PolicyKDError(
                f"states: the episodes of {self.source} are mixed: sort the rows, those of one episode together"
            )
        return starts

    def as_learners_hold(self, scale: ActionScale | Choices) -> np.ndarray:
        """Actions ``(n, A)`` in [-1, 1], or vectors of 1 at the choice, float32.

        Raises:
            PolicyKDError: there are none, or they are not those of this task.
        """
        if self.actions is None:
            raise PolicyKDError(f"states: {self.source} has no actions to copy: give a teacher, who answers at them")
        actions, rows = np.asarray(self.actions), len(self.observations)
        if isinstance(scale, Choices) and not self.scaled:
            actions, last = actions.reshape(rows, -1), scale.start + scale.size - 1
            if actions.shape[1] != 1 or not np.isin(actions, np.arange(scale.start, last + 1)).all():
                raise PolicyKDError(f"states: {self.source} has actions that are none of {scale.start} to {last}")
            actions = actions[:, 0]
        elif actions.shape != (rows, scale.size):
            raise PolicyKDError(f"states: {self.source} has actions of shape {actions.shape}, not {(rows, scale.size)}")
        return (actions if self.scaled else scale.from_env(actions)).astype(np.float32)

    def dataset(self) -> TensorDataset:
        """Observations and numbers of actions, as a ``Distiller`` learns from them.

        Raises:
            PolicyKDError: actions are no choices, or as in ``checked``.
        """
        observations, actions, *_ = self.checked()
        actions = None if actions is None else np.asarray(actions)
        if actions is not None and self.scaled and actions.ndim == 2:
            actions = actions.argmax(1)
        if actions is None or actions.size != len(self.observations) or (actions != actions.round()).any():
            raise PolicyKDError(f"states: {self.source} has no choices, which a classifier could learn")
        labels = torch.from_numpy(actions.reshape(-1).astype(np.int64))
        return TensorDataset(torch.from_numpy(observations), labels)


def _from_file(path: Path) -> LoggedStates:
    """The states of a file, or of a Minari folder."""
    path = next(
        (folder for folder in (path / "data/main_data.hdf5", path / "main_data.hdf5") if folder.is_file()), path
    )
    if path.suffix in (".npz", ".hdf5", ".h5") and path.exists() and not path.is_file():
        raise PolicyKDError(f"states: {path} is no file")
    with telling(f"states: {path} cannot be read: ", told=one_line):
        if path.suffix == ".npz":
            with Archive(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.names]
            kept = [name for name in (*OBSERVATIONS, *ACTIONS, "indices", "episodes") if name in names]
            return _from_arrays(dict(zip(kept, read_npz(path, kept), strict=True)), str(path))
        if path.suffix in (".hdf5", ".h5"):
            return _from_hdf5(path)
    advice = "; load a replay buffer's pickle with SB3, and give the buffer" if path.suffix == ".pkl" else ""
    raise PolicyKDError(f"states: {path} is no .npz, no .hdf5 and no folder of Minari{advice}")


def _from_arrays(arrays: Mapping[str, Any], source: str, space: OwnSpace | None = None) -> LoggedStates:
    """States by the names that files give them."""
    found, actions = [
        next((arrays[name] for name in names if name in arrays), None) for names in (OBSERVATIONS, ACTIONS)
    ]
    if found is None:
        raise PolicyKDError(f"states: {source} has none called {' or '.join(OBSERVATIONS)}")
    observations = _laid_out(found, space, source) if isinstance(found, Mapping) else np.asarray(found)
    actions, episodes = None if actions is None else np.asarray(actions), arrays.get("episodes")
    if actions is not None and "indices" in arrays and len(observations) > len(actions):
        # imitation keeps the last observation of each trajectory, too; ``indices`` are where actions of the next begin.
        begins = np.asarray(arrays["indices"])
        ends = [*begins.tolist(), len(actions)]
        observations = np.delete(observations, [end + number for number, end in enumerate(ends)], axis=0)
        episodes = np.searchsorted(begins, np.arange(len(actions)), side="right")
    return LoggedStates(observations, actions, source=source, episodes=None if episodes is None else np.array(episodes))


def _from_hdf5(path: Path) -> LoggedStates:
    """D4RL's arrays at the top, or Minari's groups ``episode_<n>``, whose last observation has no action."""
    h5py = needs("h5py", "offline")
    with h5py.File(path, "r") as file:
        if "observations" in file:
            names = [name for name in OBSERVATIONS + ACTIONS if name in file]
            return _from_arrays(dict(zip(names, _read(file, names, path), strict=True)), str(path))
        episodes = sorted((name for name in file if re.fullmatch(r"episode_\d+", name)), key=lambda name: int(name[8:]))
        if not episodes:
            raise PolicyKDError(f"states: {path} has neither observations nor episodes of Minari")
        parts = _read(file, [f"{name}/{part}" for part in ("actions", "observations") for name in episodes], path)
    actions = parts[: len(episodes)]
    states = [part[: len(done)] for part, done in zip(parts[len(episodes) :], actions, strict=True)]
    numbers = np.repeat(np.arange(len(states)), [len(part) for part in states])
    return LoggedStates(np.concatenate(states), np.concatenate(actions), source=str(path), episodes=numbers)


def _read(file: Any, names: list[str], path: Path) -> list[np.ndarray]:
    """Arrays of an HDF5 file, together no larger than a zip of its size may unpack to."""
    found = [_array(file, name) for name in names]
    nbytes = sum(array.size * array.dtype.itemsize for array in found)
    if nbytes > SPARE + RATIO * path.stat().st_size:
        raise ValueError(f"{', '.join(names[:3])} unpack to {nbytes:,} bytes, more than they may")
    require_memory(nbytes, f"{', '.join(names[:3])} of {path}", "a part of the file")
    return [array[()] for array in found]


def _array(file: Any, name: str) -> Any:
    """An array of an HDF5 file, and of no other file that it points to."""
    h5py = needs("h5py", "offline")
    parts = name.split("/")
    for depth in range(len(parts)):
        if not isinstance(file.get("/".join(parts[: depth + 1]), getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is missing, or a link to another file")
    found = file[name]
    numbers = isinstance(found, h5py.Dataset) and found.shape and found.dtype.kind in "fiub"
    if not numbers or found.external or found.is_virtual:
        raise ValueError(f"{name} is no array of numbers")
    return found


def _laid_out(observations: Mapping[str, Any], space: OwnSpace | None, source: str) -> np.ndarray:
    """A dict of n observations as ``(n, O)``."""
    if not isinstance(space, spaces.Dict):
        raise PolicyKDError(f"states: {source} has dicts of observations, and a task of vectors has no place for them")
    try:
        return flatten(space, observations)
    except ValueError as error:
        raise PolicyKDError(f"states: {source}: {one_line(error)}") from None


def _from_sb3(buffer: Any, space: OwnSpace | None) -> LoggedStates:
    """The steps in a replay buffer of SB3, whose continuous actions are in [-1, 1].

    Dicts of observations are laid out as the task's space says, or the buffer's own.
    """
    name, count = f"a {type(buffer).__name__}", buffer.buffer_size if buffer.full else buffer.pos
    if hasattr(buffer, "log_probs"):
        raise PolicyKDError(
            f"states: {name} is of learning on policy, its actions are not those that the task took: give a replay "
            "buffer, or a mapping of observations and actions"
        )
    found = buffer.observations
    if isinstance(found, Mapping):
        own = buffer.observation_space
        parts = {key: part[:count].reshape(-1, *own[key].shape) for key, part in found.items()}
        observations = _laid_out(parts, space or own, name)
    elif found.ndim != 3 and not is_laid_out(buffer.observation_space):
        raise PolicyKDError(f"states: {name} of observations {found.shape[2:]}, not vectors")
    else:
        observations = found[:count].reshape(-1, math.prod(found.shape[2:]))
    actions = buffer.actions[:count].reshape(-1, buffer.actions.shape[-1])
    discrete = type(buffer.action_space).__name__ == "Discrete"
    return LoggedStates(observations, actions, not discrete, name)
