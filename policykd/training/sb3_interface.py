"""What callbacks of Stable-Baselines3, its zoo and W&B ask of a model, answered for all learners of an agent.

``num_timesteps`` counts as policykd counts: the steps of one group, all of its peers together.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback

from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError, nearest, plural
from policykd.core.files import as_path, file_path
from policykd.core.networks import state_tensors
from policykd.distillation.teaching_config import TAUGHT_CONFIGS
from policykd.learners import LEARNERS
from policykd.learners.sb3_arguments import ADVICE, ATTRIBUTE_ADVICE, LOAD_ADVICE
from policykd.memory import SharedReplay
from policykd.teachers import Teacher
from policykd.training.acting import Acting

F = TypeVar("F", bound=Callable[..., Any])
REPLAY = "replay"
"""The memory that SB3 calls ``replay_buffer``."""


class SB3Interface(Acting):
    """Attributes and methods that SB3's ``BaseAlgorithm`` has and an agent answers; the rest is refused in one line."""

    _logger: Logger | None
    envs: Any

    if TYPE_CHECKING:

        @property
        def logger(self) -> Logger: ...  # noqa: D102
    else:  # a checker of types would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            """A setting, which SB3's agents have as an attribute; of peers that differ, the value of each."""
            config = self.__dict__.get("config")
            if name in getattr(config, "__dataclass_fields__", ()):
                return getattr(config, "vary", {}).get(name, getattr(config, name))
            if name in ATTRIBUTE_ADVICE:
                raise AttributeError(f"{type(self).__name__} has no {name}; {ATTRIBUTE_ADVICE[name]}")
            return object.__getattribute__(self, name)  # says what is missing

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse a setting: nothing would read it.

            Raises:
                PolicyKDError: it is one.
            """
            if _is_setting(name):
                how = f"make a new agent with config={{{name!r}: ...}}"
                raise PolicyKDError(f"{name}: an agent's settings cannot change: {how}")
            object.__setattr__(self, name, value)

    verbose = 0
    _vec_normalize_env = None
    """Learners see raw observations: PPO normalises them by itself."""

    def __repr__(self) -> str:
        seeds = plural(len(self.seeds), "seed")
        groups = f"{self.peers} peers x {seeds}" if self.peers > 1 else seeds
        return (
            f"{type(self).__name__}({self.env_id}, method={self.method_name}, backbone={self.backbone}, {groups}, "
            f"{self.run.num_timesteps:,} steps)"
        )

    @property
    def ep_info_buffer(self) -> deque[dict[str, float]]:
        """The latest episodes of all learners, 100 of each, as SB3's Monitor tells of them (r, l, t)."""
        return deque(episode for episodes in self.run.episodes for episode in episodes)

    @property
    def ep_success_buffer(self) -> deque[float]:
        """Of the same episodes, those of tasks whose ``info`` has ``is_success``: 1 or 0."""
        return deque(episode["is_success"] for episode in self.ep_info_buffer if "is_success" in episode)

    @property
    def tensorboard_log(self) -> str | None:
        """The run folder, where TensorBoard's files are; None where nothing is written."""
        return None if self.folder is None else str(self.folder.path)

    @property
    def policy(self) -> Any:
        """A copy of the best learner's policy, as SB3's policy class; ``to_sb3`` says what it needs beside it."""
        return self.to_sb3().policy

    def set_logger(self, logger: Logger) -> None:
        """Record the means over all learners with this logger; a run folder's own files of each learner stay."""
        self._logger = logger

    def get_vec_normalize_env(self) -> None:
        """None: learners see raw observations (SB3's ``EvalCallback`` asks)."""
        return None

    def dump_logs(self) -> None:
        """Write what was recorded so far as one row (SB3's ``LogEveryNTimesteps`` calls this)."""
        self.logger.record("time/total_timesteps", self.run.num_timesteps)
        self.logger.dump(self.run.num_timesteps)

    def get_parameters(self) -> dict[str, Any]:
        """Tensors of all learners and of their optimisers by name, with the learner axis first: ``(K, ...)``."""
        return state_tensors(self.learner)

    def save_replay_buffer(self, path: str | Path) -> None:
        """Write all learners' transitions as a checkpoint of policykd, whatever the file is called: no pickle.

        Raises:
            PolicyKDError: the learners have no replay, or the file cannot be written.
        """
        replay = self._replay("save_replay_buffer")
        checkpoint.save(file_path("save_replay_buffer", path, "replay.safetensors"), {"replay_buffer": replay.state()})

    def load_replay_buffer(self, path: str | Path) -> None:
        """Read back what ``save_replay_buffer`` wrote.

        Raises:
            PolicyKDError: the file is missing, damaged or foreign, or of learners of other numbers or sizes.
        """
        loaded = checkpoint.load(as_path("load_replay_buffer", path))
        if "replay_buffer" not in loaded:
            raise PolicyKDError(f"load_replay_buffer: {path} is not a replay saved by policykd")
        replay = self._replay("load_replay_buffer")
        replay.restore(loaded["replay_buffer"])
        if self.envs is not None:  # else it is cut where they open
            replay.cut()  # no n-step return runs on into the episodes that are under way here

    def set_env(self, env: object) -> NoReturn:
        """Refused: an agent keeps its task.

        Raises:
            PolicyKDError: always.
        """
        how = "save it without its replay, and load it with env="  # with it environments go on as they were saved
        raise PolicyKDError(f"set_env: an agent's task, {self.env_id}, cannot change: {how}")

    def _replay(self, what: str) -> SharedReplay:
        if REPLAY not in self.memories:
            raise PolicyKDError(f"{what}: {self.backbone} with {self.method_name} has no replay")
        replay: SharedReplay = self.memories[REPLAY]
        return replay


def explains_arguments(method: F) -> F:
    """A method of an agent, or of its class, that says in one line where an argument goes that it does not have."""
    signature, own = inspect.signature(method), method.__name__

    @functools.wraps(method)
    def explained(self: object, *given: Any, **named: Any) -> Any:
        kind = self if isinstance(self, type) else type(self)
        name = kind.__name__ if own == "__init__" else f"{kind.__name__}.{own}"
        if own == "__init__" and given and isinstance(given[0], str) and given[0].endswith("Policy"):
            raise PolicyKDError(f"{name}: {given[0]!r} is SB3's first argument; here the task comes first: {name}(env)")
        for argument in named:
            if argument not in signature.parameters:
                place = _kept(argument, signature) if own == "load" else _place(argument, signature)
                raise PolicyKDError(f"{name}: unknown argument {argument!r}{place}")
        try:
            bound = signature.bind(self, *given, **named)
        except TypeError as error:
            raise PolicyKDError(f"{name}: {error}; pass all but the first arguments by name") from None
        for argument, value in bound.arguments.items():
            if isinstance(value, str) and signature.parameters[argument].annotation == "bool":  # "no" would be True
                raise PolicyKDError(f"{name}: {argument}={value!r:.200} must be True or False")
        return method(self, *given, **named)

    return explained  # type: ignore[return-value]


def as_callback(given: MaybeCallback) -> BaseCallback:
    """The callback that a user hands to ``learn``: one of SB3's, a function of ``(locals, globals)``, or several.

    Raises:
        PolicyKDError: it is none, or a class of them, or asks a model for what no learner has.
    """
    for one in given if isinstance(given, list | tuple) else [] if given is None else [given]:
        if any(kind.__name__ == "MaskableEvalCallback" for kind in type(one).__mro__):
            raise PolicyKDError(
                "callback: MaskableEvalCallback needs an agent that takes action_masks: use EvalCallback"
            )
        if isinstance(one, type) or not (isinstance(one, BaseCallback) or callable(one)):
            what = f"the class {one.__name__}: pass an instance" if isinstance(one, type) else f"a {type(one).__name__}"
            raise PolicyKDError(
                f"callback: must be an SB3 callback, a function of (locals, globals) or a list of these, got {what}"
            )
    if isinstance(given, BaseCallback):
        return given
    if given is None or isinstance(given, list | tuple):
        return CallbackList([one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in given or ()])
    return ConvertCallback(given)


def _place(argument: str, signature: inspect.Signature) -> str:
    """Where an unknown argument belongs, as the end of an error line."""
    if argument in ADVICE:
        return f"; {ADVICE[argument]}"
    if _is_setting(argument):
        return f"; it is a setting: config={{{argument!r}: ...}}"
    if "teacher" in signature.parameters and argument in inspect.signature(Teacher.load).parameters:
        return f"; it belongs to the teacher: Teacher.load(..., {argument}=...)"
    return nearest(argument, signature.parameters)


def _kept(argument: str, signature: inspect.Signature) -> str:
    """Why ``load`` has no such argument, likewise."""
    if argument in LOAD_ADVICE:
        return f"; {LOAD_ADVICE[argument]}"
    if argument in ADVICE or _is_setting(argument):
        return "; an agent's settings cannot change"
    return nearest(argument, signature.parameters)


def _is_setting(argument: str) -> bool:
    kinds = [*(learner.config_type for learner in LEARNERS.values()), *TAUGHT_CONFIGS.values()]
    return any(argument in kind.__dataclass_fields__ for kind in kinds)
