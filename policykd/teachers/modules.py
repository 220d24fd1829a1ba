"""Teachers that are live programs: functions, objects with ``predict``, torch modules.

Like deployed policies, they return actions in the task's units; for discrete actions indices ``(B,)`` or logits
``(B, A)``.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from policykd.core.errors import PolicyKDError, reraise, type_and_text
from policykd.tasks.spaces import DiscreteActions
from policykd.teachers.policy import Bounds, Policy, Scores, freeze, to_unit
from policykd.teachers.task import TaskSpaces

log = logging.getLogger("policykd")
ACTING = ("act_inference", "actor_mean", "_orig_mod")
"""Attributes that give the mean action of modules without ``forward``: rsl_rl's method, the network of CleanRL's
PPO, the module behind ``torch.compile``."""
KEYS = ("action", "actions", "loc", "mean")
"""Keys of the action in the output of modules that return a dict; the first one present counts."""
SAMPLES = (
    "gives different answers to the same observation: it samples or keeps state, but a teacher should act "
    "deterministically on the observation alone; give a stateful policy as an object with reset()"
)
"""Warning about a program that samples or has memory."""


def from_callable(source: Any, task: TaskSpaces | None, device: torch.device) -> Policy:
    """The policy of a function ``observation (O,) -> action (A,)``, or of an object with ``predict``.

    It is called once per observation, unless its outputs for the task's initial observations are the same one by one
    and as a batch.

    Raises:
        PolicyKDError: there is no task to get sizes from, or it fails on the task's initial observations.
    """
    name = getattr(source, "__name__", type(source).__name__)
    if task is None:
        raise PolicyKDError(
            f"teacher: the sizes of observations and actions of a function ({name}) are unknown: give env="
        )

    @torch.no_grad()
    def function(observations: np.ndarray) -> np.ndarray:
        return _numbers(action_of(source, observations), f"function {name}")

    def one_by_one(observations: np.ndarray) -> np.ndarray:
        return np.stack([function(observation) for observation in observations])

    act, examples = one_by_one, task.examples
    apart = _try_out(one_by_one, examples, f"function {name}", "(O,) of NumPy")
    if not np.allclose(apart, one_by_one(examples), equal_nan=True):
        log.warning("teacher function %s %s", name, SAMPLES)
    try:
        together = function(examples)
        if together.shape == apart.shape and np.allclose(together, apart, atol=1e-5):
            act = function
    except Exception:  # a function of one observation may fail on several in any way
        pass
    return acting(f"function {name}", through_numpy(act, device), None, _actions(task), device, apart.shape)


def action_of(source: Any, observations: np.ndarray) -> Any:
    """The action from a function, or from an object with ``predict``, which may return SB3's state with it."""
    observations = observations.copy()  # it may keep them, and write into them
    if not hasattr(source, "predict"):
        return source(observations)
    answer = source.predict(observations, deterministic=True)
    return answer[0] if isinstance(answer, tuple) else answer


def from_module(
    module: nn.Module,
    source: str,
    task: TaskSpaces | None,
    device: torch.device,
    described: dict[str, Any] | None = None,
) -> Policy:
    """The policy of a torch module, from raw observations ``(B, O)`` to actions ``(B, A)`` in the task's units.

    Observations are cast to the precision of its parameters. If it returns a dict, its "action" counts.

    Raises:
        PolicyKDError: its sizes and bounds are unknown, or it fails on the task's initial observations.
    """
    size, scale = shape(source, described, task)
    with reraise(f"teacher: {source} cannot be frozen (", "); give a module whose weights are there"):
        network = freeze(module.to(device))
    act = _forward(network, source)
    kinds = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    kind = torch.float64 if torch.float64 in kinds else kinds.pop() if len(kinds) == 1 else torch.float32

    @torch.no_grad()
    def actions(observations: Tensor) -> Any:
        answer = act(observations.to(kind))
        if isinstance(answer, Mapping) or (hasattr(answer, "keys") and hasattr(answer, "__getitem__")):
            keys = [key for key in KEYS if key in answer.keys()]  # noqa: SIM118 (a TensorDict's `in` is another)
            if not keys:
                said = ", ".join(map(str, answer.keys()))
                raise PolicyKDError(f"teacher: {source} returns {said}, none of which is its action; give a function")
            answer = answer[keys[0]]
        return answer

    answer = None
    if task is not None:
        examples, takes = torch.from_numpy(task.examples).to(device), f"(B, O) of {str(kind).removeprefix('torch.')}"
        answer = _try_out(actions, examples, source, takes)
        _try_out(actions, examples[:1], source, takes)  # fails if it keeps a memory of a fixed number of rows
        again = _try_out(actions, examples, source, takes)
        if isinstance(answer, Tensor) and not torch.allclose(answer.float(), again.float(), equal_nan=True):
            log.warning("teacher %s %s", source, SAMPLES)
    return acting(source, actions, size, scale, device, getattr(answer, "shape", ())).changed(network=network)


def copied(module: nn.Module) -> nn.Module:
    """A copy of the module as it is now; the original may go on learning.

    Raises:
        PolicyKDError: it cannot be copied.
    """
    try:
        programs = [part for part in module.modules() if isinstance(part, torch.jit.ScriptModule)]
        with _DetachedCopies():
            return copy.deepcopy(module, {id(part): _copy_program(part) for part in programs})
    except Exception as error:  # modules may hold anything
        raise PolicyKDError(
            f"teacher: module {type(module).__name__} cannot be copied, so not frozen ({type_and_text(error)}); "
            "give a function observation -> action"
        ) from None


class _DetachedCopies(TorchFunctionMode):
    """Lets ``deepcopy`` copy tensors that belong to a graph, such as the noise of state-dependent exploration."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def _copy_program(program: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A copy of a TorchScript module; copies by ``deepcopy`` have parameters that cannot be frozen."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(program, file)
        file.seek(0)
        again: torch.jit.ScriptModule = torch.jit.load(file)
    return again


def shape(
    source: str, described: dict[str, Any] | None, task: TaskSpaces | None
) -> tuple[int | None, Bounds | DiscreteActions]:
    """Length of an observation and action space: the program's own if it says so, otherwise the task's."""
    if described is not None:
        return described["observation_size"], described["actions"]
    if task is None:
        raise PolicyKDError(f"teacher: the sizes of observations and actions of {source} are unknown: give env=")
    return None, _actions(task)


def _actions(task: TaskSpaces) -> Bounds | DiscreteActions:
    """The task's action bounds, or its discrete actions."""
    return task.actions if isinstance(task.actions, DiscreteActions) else task.actions.bounds


def through_numpy(act: Callable[[np.ndarray], np.ndarray], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Wrap a function of arrays as a function of tensors."""

    def through(observations: Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(act(observations.cpu().numpy()), np.float32), device=device)

    return through


def acting(
    source: str,
    act: Callable[[Tensor], Any],
    observation_size: int | None,
    actions: Bounds | DiscreteActions,
    device: torch.device,
    output_shape: Sequence[int],
) -> Policy:
    """A policy of a program that maps raw observations ``(B, O)`` to actions ``(B, A)`` in the task's units.

    Args:
        source: its name.
        act: the program; for discrete actions it returns indices ``(B,)`` or logits ``(B, A)``.
        observation_size: length O, if known.
        actions: bounds, or discrete actions.
        device: where it computes.
        output_shape: the shape of its output for the task's initial observations, if it was tried.
    """
    if isinstance(actions, DiscreteActions):
        return _discrete(source, act, observation_size, actions, tuple(output_shape[1:]) == (actions.size,))
    bounds = actions
    middle, half = to_unit(*bounds, device)

    def answer(observations: Tensor) -> Tensor:
        actions = act(observations)
        if not isinstance(actions, Tensor):
            count = len(actions) if isinstance(actions, tuple | list | dict) else 1
            raise PolicyKDError(
                f"teacher: {source} gives {count} outputs ({type(actions).__name__}); a teacher gives one, actions "
                "(B, A)"
            )
        expected = (len(observations), len(middle))
        if tuple(actions.shape) != expected:
            raise PolicyKDError(f"teacher: {source} gives actions of shape {tuple(actions.shape)}, not {expected}")
        return actions.float()

    def gaussian(observations: Tensor) -> tuple[Tensor, None]:
        scaled = (answer(observations) - middle) / half
        return torch.where(scaled.isfinite(), scaled.clamp(-1, 1), scaled), None  # infinity must stay to be seen

    return Policy(source, observation_size, len(middle), gaussian, low=bounds[0], high=bounds[1], answer=answer)


def _discrete(
    source: str, act: Callable[[Tensor], Any], observation_size: int | None, choices: DiscreteActions, logits: bool
) -> Policy:
    """The policy of a program that returns indices of discrete actions, or logits."""

    def scores(observations: Tensor) -> tuple[Tensor, None]:
        answer, count = act(observations), len(observations)
        if not isinstance(answer, Tensor) or answer.shape not in (
            [(count, choices.size)] if logits else [(count,), (count, 1)]
        ):
            shape = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
            raise PolicyKDError(
                f"teacher: {source} gives actions as {shape}, not numbers of actions ({count},) or logits "
                f"({count}, {choices.size})"
            )
        if logits:
            return answer.float(), None
        place = answer.reshape(count).float() - choices.start
        if not torch.isin(place, torch.arange(choices.size).to(place)).all():
            last = choices.start + choices.size - 1
            raise PolicyKDError(
                f"teacher: {source} gives actions outside {choices.start} to {last}: {answer.reshape(-1)[:4]}"
            )
        return torch.nn.functional.one_hot(place.long(), choices.size).float(), None

    kind: Scores = "logits" if logits else "choice"
    return Policy(source, observation_size, choices.size, scores, kind, first=choices.start)


def _forward(network: nn.Module, source: str) -> Callable[[Tensor], Any]:
    """The function that gives a module's action: ``forward``, or a known attribute of modules without one."""
    # A TorchScript module has a forward of its own that type() does not show.
    if isinstance(network, torch.jit.ScriptModule) or type(network).forward is not nn.Module.forward:
        return network
    for name in ACTING:
        if callable(found := getattr(network, name, None)):
            return found
    parts = ", ".join(name for name, _ in network.named_children())
    raise PolicyKDError(
        f"teacher: {source} has no forward; give the part that maps observations to actions (it has "
        f"{parts or 'none'}), or a function observation -> action"
    )


def _numbers(answer: Any, source: str) -> np.ndarray:
    """An output as an array, from any device."""
    if isinstance(answer, Tensor):
        return answer.detach().cpu().numpy().astype(np.float32)
    if isinstance(answer, tuple) and len(answer) == 2 and not np.isscalar(answer[0]):
        raise PolicyKDError(f"teacher: {source} gives 2 outputs (tuple); a teacher gives one, the action: take its [0]")
    return np.asarray(answer, np.float32)


def _try_out(act: Callable[[Any], Any], examples: Any, source: str, takes: str) -> Any:
    """Call ``act`` on a task's initial observations; any failure becomes a one-line error."""
    try:
        return act(examples)
    except PolicyKDError:
        raise
    except Exception as error:  # a user's program may fail in any way
        raise PolicyKDError(
            f"teacher: {source} fails on an observation {takes} ({type_and_text(error)}); wrap it in a function that "
            "makes of it what it needs"
        ) from error
