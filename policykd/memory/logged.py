"""Logged states and actions as a data set, from files, replay buffers and demonstrations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils.data import TensorDataset

from policykd.core.archives import Archive, read_npz
from policykd.core.arrays import as_numpy
from policykd.core.errors import PolicyKDError, one_line, reraise
from policykd.memory.hdf5 import read_hdf5
from policykd.tasks.flat import needs_flattening
from policykd.tasks.groups import OwnSpace, flatten
from policykd.tasks.spaces import ActionScale, DiscreteActions

OBSERVATIONS, ACTIONS = ("observations", "obs", "states"), ("actions", "acts")
"""Names of the arrays in files; the episode of each state is called ``episodes``."""
ENDS = ("terminals", "timeouts")
"""D4RL's flags of the last step of an episode; only both together tell all episodes apart."""
NAMES, BESIDE = (*OBSERVATIONS, *ACTIONS), ("indices", "episodes", *ENDS)
"""Arrays to read from a file, and arrays that identify episodes."""
ROUNDING = 1e-3
"""Tolerance of scaled actions at -1 and 1, or of one-hot vectors at 0 and 1."""


def starts_of(episodes: np.ndarray) -> np.ndarray:
    """Whether a state is the first of its episode ``(n,)``, given the episode of each state."""
    return np.append(True, episodes[1:] != episodes[:-1])


class LoggedStates(NamedTuple):
    """States and the actions taken there, in any order or episode by episode."""

    observations: np.ndarray
    """Raw ``(n, O)``, float32."""
    actions: np.ndarray | None = None
    """``(n, A)``, or indices ``(n,)`` of discrete actions; None if not recorded."""
    scaled: bool = False
    """Whether actions are in [-1, 1] or one-hot; otherwise they are in the task's units."""
    source: str = "the data"
    """Name of the data in errors."""
    episodes: np.ndarray | None = None
    """Episode of each state ``(n,)``; states of an episode are consecutive and in order. None if unknown."""

    @staticmethod
    def read(source: Any, space: OwnSpace | None = None) -> LoggedStates:
        """Read logged states from any supported source.

        Args:
            source: an ``.npz`` file of ``observations`` and ``actions`` (``obs`` and ``acts``: imitation's); an HDF5
                file as D4RL's, or Minari's (or its folder); a replay buffer of SB3, or the model that has one;
                ``Demonstrations``; a mapping of arrays; or ``LoggedStates``.
            space: the task's observation space, if it has dicts or several axes, which are flattened (docs/groups.md).

        Raises:
            PolicyKDError: it holds no states, or cannot be read; no code in a file is run.
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
        raise PolicyKDError(f"states: a {type(source).__name__} has no states; docs/offline.md lists what can be given")

    def checked(self, space: OwnSpace | None = None) -> LoggedStates:
        """Validate, and convert observations to float32 vectors.

        Args:
            space: the task's observation space, if observations have several axes.

        Raises:
            PolicyKDError: observations are not vectors, not finite or not as many as actions; or actions not finite.
        """
        observations, actions = as_array(self.observations, "observations", self.source), self.actions
        count = len(observations) if observations.ndim else 0
        if isinstance(space, spaces.Box) and observations.shape[1:] == space.shape:
            observations = observations.reshape(count, -1)
        if observations.ndim != 2 or not observations.size:
            raise PolicyKDError(f"states: {self.source} has observations of shape {observations.shape}, not (n, O)")
        if actions is not None:
            actions = as_array(actions, "actions", self.source)
            if actions.shape[:1] != (count,) or not np.isfinite(actions).all():
                raise PolicyKDError(f"states: {self.source} needs one finite action for each of {count:,} observations")
        with np.errstate(over="ignore"):  # values beyond float32 become infinite
            observations = np.array(observations, np.float32)
        if not np.isfinite(observations).all():
            raise PolicyKDError(f"states: {self.source} has observations that are not finite in float32")
        episodes = None if self.episodes is None else as_array(self.episodes, "episodes", self.source, "fiubUSO")
        if episodes is not None and episodes.shape not in ((count,), (count, 1)):
            episodes = None  # something else of that name: their number, or their lengths
        if episodes is not None:  # object arrays, as from pandas, are compared as text
            episodes = episodes.reshape(count).astype(str if episodes.dtype.kind == "O" else episodes.dtype)
        return self._replace(observations=observations, actions=actions, episodes=episodes)

    def starts(self) -> np.ndarray:
        """Whether a state is the first of its episode ``(n,)``.

        Raises:
            PolicyKDError: the episodes are unknown, or states of an episode are not consecutive.
        """
        if self.episodes is None:
            raise PolicyKDError(
                f"states: {self.source} does not say which states form an episode, which students or teachers with "
                "memory need: give Demonstrations, or add episodes (n,), or D4RL's terminals and timeouts"
            )
        starts = starts_of(self.episodes)
        if starts.sum() != len(np.unique(self.episodes)):
            raise PolicyKDError(f"states: the episodes of {self.source} are mixed: sort the rows by episode")
        return starts

    def as_learner_actions(self, scale: ActionScale | DiscreteActions) -> np.ndarray:
        """Actions ``(n, A)`` in [-1, 1] or one-hot, float32.

        Raises:
            PolicyKDError: there are no actions, or they do not fit the task.
        """
        if self.actions is None:
            raise PolicyKDError(f"states: {self.source} has no actions to copy: give a teacher that labels the states")
        actions, rows = np.asarray(self.actions), len(self.observations)
        if isinstance(scale, DiscreteActions) and not self.scaled:
            actions, last = actions.reshape(rows, -1), scale.start + scale.size - 1
            if actions.shape[1] != 1 or not np.isin(actions, np.arange(scale.start, last + 1)).all():
                raise PolicyKDError(f"states: {self.source} has actions outside {scale.start} to {last}")
            actions = actions[:, 0]
        elif actions.shape != (rows, scale.size):
            raise PolicyKDError(f"states: {self.source} has actions of shape {actions.shape}, not {(rows, scale.size)}")
        elif self.scaled and not _are_scaled(actions, isinstance(scale, DiscreteActions)):
            wanted = "one-hot" if isinstance(scale, DiscreteActions) else "in [-1, 1]"
            raise PolicyKDError(
                f"states: {self.source} has actions from {actions.min():g} to {actions.max():g}, but they should be "
                f"{wanted}: give a mapping of observations and actions in the task's own units"
            )
        return (actions if self.scaled else scale.from_env(actions)).astype(np.float32)

    def dataset(self) -> TensorDataset:
        """Observations and indices of discrete actions, as a data set for ``Distiller``.

        Raises:
            PolicyKDError: actions are not discrete, or as in ``checked``.
        """
        observations, actions, *_ = self.checked()
        actions = None if actions is None else np.asarray(actions)
        if actions is not None and self.scaled and actions.ndim == 2:
            actions = actions.argmax(1)
        if actions is None or actions.size != len(self.observations) or (actions != actions.round()).any():
            raise PolicyKDError(f"states: {self.source} has no discrete actions, which a classifier needs")
        labels = torch.from_numpy(actions.reshape(-1).astype(np.int64))
        return TensorDataset(torch.from_numpy(observations), labels)


def as_array(values: Any, what: str, source: str, kinds: str = "fiub") -> np.ndarray:
    """Convert lists, arrays or tensors, also on other devices or with gradients, to a numeric array.

    Args:
        values: the numbers.
        what: name of the values in errors.
        source: name of their source in errors.
        kinds: allowed kinds of NumPy dtypes.

    Raises:
        PolicyKDError: they are not a numeric array.
    """
    with reraise(f"states: {source} has {what} that are not an array (", ")", one_line):
        if isinstance(values, Tensor):
            values = as_numpy(values.double() if values.is_floating_point() else values)  # NumPy has no bfloat16
        array = np.asarray(values)
    if array.dtype.kind not in kinds:
        raise PolicyKDError(f"states: {source} has {what} of type {array.dtype}: give numbers")
    return array


def _are_scaled(actions: np.ndarray, choices: bool) -> bool:
    """Whether actions ``(n, A)`` are in [-1, 1], or one-hot."""
    nearest = np.eye(actions.shape[1])[actions.argmax(1)] if choices else actions.clip(-1, 1)
    return bool(np.abs(actions - nearest).max() <= ROUNDING)


def _from_file(path: Path) -> LoggedStates:
    """Read states from a file, or from a Minari folder."""
    path = next(
        (folder for folder in (path / "data/main_data.hdf5", path / "main_data.hdf5") if folder.is_file()), path
    )
    if path.suffix in (".npz", ".hdf5", ".h5") and path.exists() and not path.is_file():
        raise PolicyKDError(f"states: {path} is not a file")
    with reraise(f"states: {path} cannot be read: ", text=one_line):
        if path.suffix == ".npz":
            with Archive(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.names]
            kept = [name for name in (*NAMES, *BESIDE) if name in names]
            return _from_arrays(dict(zip(kept, read_npz(path, kept), strict=True)), str(path))
        if path.suffix in (".hdf5", ".h5"):
            return _from_arrays(read_hdf5(path, NAMES, BESIDE), str(path))
    advice = "; load a replay buffer's pickle with SB3, and give the buffer" if path.suffix == ".pkl" else ""
    raise PolicyKDError(f"states: {path} is not a .npz, .hdf5 or Minari folder{advice}")


def _from_arrays(arrays: Mapping[str, Any], source: str, space: OwnSpace | None = None) -> LoggedStates:
    """Read states from arrays by the names used in files."""
    found, actions = [
        next((arrays[name] for name in names if name in arrays), None) for names in (OBSERVATIONS, ACTIONS)
    ]
    if found is None:
        raise PolicyKDError(f"states: {source} has no array called {' or '.join(OBSERVATIONS)}")
    to_vector = isinstance(found, Mapping)
    observations = _flatten(found, space, source) if to_vector else as_array(found, "observations", source)
    actions, episodes = None if actions is None else as_array(actions, "actions", source), arrays.get("episodes")
    if actions is not None and "indices" in arrays and observations.shape[:1] > actions.shape[:1]:
        observations, episodes = _without_last(observations, actions, arrays["indices"], source)
    if episodes is None and all(arrays.get(name) is not None for name in ENDS):
        episodes = _between_ends([as_array(arrays[name], name, source) for name in ENDS], len(observations))
    return LoggedStates(observations, actions, source=source, episodes=episodes)


def _between_ends(ends: list[np.ndarray], count: int) -> np.ndarray | None:
    """The episode of each of ``count`` states, by flags of last steps; None where they are not one flag a state."""
    if any(flags.shape not in ((count,), (count, 1)) for flags in ends):
        return None
    last = np.logical_or(*(flags.reshape(count) for flags in ends))
    return np.append(0, last.cumsum())[:count]


def _without_last(
    observations: np.ndarray, actions: np.ndarray, indices: Any, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the final observation of each trajectory, which has no action; also returns each one's episode.

    Args:
        observations: observations in imitation's format.
        actions: actions of all trajectories.
        indices: where the next trajectory's actions begin.
        source: name of the source in errors.
    """
    begins, count = as_array(indices, "indices", source), len(actions) if actions.ndim else 0
    ends = np.append(begins.astype(np.int64), count) if begins.ndim == 1 else np.empty(0, np.int64)
    if len(observations) != count + len(ends) or (np.diff(ends, prepend=0) < 0).any():
        raise PolicyKDError(
            f"states: {source} has {len(observations):,} observations and {count:,} actions, but indices do not split "
            "them into trajectories with one more observation than actions each"
        )
    observations = np.delete(observations, ends + np.arange(len(ends)), axis=0)
    return observations, np.searchsorted(ends[:-1], np.arange(count), side="right")


def _flatten(observations: Mapping[str, Any], space: OwnSpace | None, source: str) -> np.ndarray:
    """Flatten a dict of n observations to ``(n, O)``."""
    if not isinstance(space, spaces.Dict):
        raise PolicyKDError(f"states: {source} has dicts of observations, but the task has vectors")
    try:
        return flatten(space, observations)
    except ValueError as error:
        raise PolicyKDError(f"states: {source}: {one_line(error)}") from None


def _from_sb3(buffer: Any, space: OwnSpace | None) -> LoggedStates:
    """Read the steps of an SB3 replay buffer, whose continuous actions are in [-1, 1].

    Dict observations are flattened by the task's space, or by the buffer's own.
    """
    name, rows = f"a {type(buffer).__name__}", np.arange(buffer.buffer_size if buffer.full else buffer.pos)
    if buffer.full and getattr(buffer, "optimize_memory_usage", False):
        rows = np.delete(rows, buffer.pos)  # the latest next observation, with the oldest action
    if hasattr(buffer, "log_probs"):
        raise PolicyKDError(
            f"states: {name} is on-policy, and its actions are not those that the task received: give a replay "
            "buffer, or a mapping of observations and actions"
        )
    found = buffer.observations
    if isinstance(found, Mapping):
        own = buffer.observation_space
        parts = {key: part[rows].reshape(-1, *own[key].shape) for key, part in found.items()}
        observations = _flatten(parts, space or own, name)
    elif found.ndim != 3 and not needs_flattening(buffer.observation_space):
        raise PolicyKDError(f"states: {name} of observations {found.shape[2:]}, not vectors")
    else:
        observations = found[rows].reshape(-1, math.prod(found.shape[2:]))
    if not len(rows):
        raise PolicyKDError(f"states: {name} is empty")
    actions = buffer.actions[rows].reshape(-1, buffer.actions.shape[-1])
    discrete = type(buffer.action_space).__name__ == "Discrete"
    return LoggedStates(observations, actions, not discrete, name)
