"""Teachers with internal state, such as planners and controllers with integrators, which ``reset()`` resets."""

from __future__ import annotations

import copy
import inspect
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError, type_and_text
from policykd.tasks.env_state import get_env_state, set_env_state, unsaved_state
from policykd.teachers.modules import acting, action_of, shape
from policykd.teachers.policy import Memory, Policy, needs_memory
from policykd.teachers.task import TaskSpaces

log = logging.getLogger("policykd")


def is_controller(source: Any) -> bool:
    """Whether a callable, or an object with ``predict``, has a ``reset()`` to call at the start of every episode."""
    acts = callable(source) or hasattr(source, "predict")
    return acts and callable(getattr(source, "reset", None)) and not isinstance(source, nn.Module)


def reset_copy(source: Any) -> Any:
    """A copy reset for a new episode; ``source`` is unchanged.

    Raises:
        PolicyKDError: it cannot be copied, or ``reset()`` fails.
    """
    try:
        own = copied(source)
        own.reset()
    except Exception as error:  # a user's object may fail in any way
        raise PolicyKDError(
            f"teacher: {_name(source)} cannot begin an episode ({type_and_text(error)}): each episode runs "
            "on a copy (copy.deepcopy), started with reset() without arguments"
        ) from error
    return own


def copied(source: Any) -> Any:
    """A copy with separate state. SB3 models that it holds are shared, replay included: acting does not change them."""
    parts = getattr(source, "__dict__", {}).values()
    return copy.deepcopy(source, {id(part): part for part in parts if isinstance(part, BaseAlgorithm | BasePolicy)})


def from_controller(source: Any, task: TaskSpaces | None, device: torch.device) -> Policy:
    """The policy of an object that has ``reset()`` and is called with one observation ``(O,)`` at a time.

    Every environment has its own copy. Each step copies it again, so that earlier memories stay valid, as those of a
    recurrent network do.

    Raises:
        PolicyKDError: there is no task to get sizes from, or it cannot be copied or fails on an initial observation.
    """
    name = _name(source)
    _, actions = shape(name, None, task)
    assert task is not None
    if inspect.isroutine(source) or inspect.isclass(source):
        raise PolicyKDError(
            f"teacher: {name} is a function or class, whose copies share state, but every environment needs its "
            "own: give an object with __call__ and reset()"
        )
    source = reset_copy(source)  # separate from the user's object, which may act meanwhile

    def ask(controllers: tuple[Any, ...], inputs: np.ndarray) -> Tensor:
        return torch.stack([_answer(own, row, name) for own, row in zip(controllers, inputs, strict=True)])

    first, again = (ask(tuple(reset_copy(source) for _ in task.examples), task.examples) for _ in range(2))
    if not torch.allclose(first, again, equal_nan=True):
        log.warning("teacher %s answers differently at the same start of an episode: a teacher should not sample", name)
    head = acting(name, lambda answers: answers, None, actions, device, first.shape)

    def step(inputs: Tensor, memory: Memory | None, starts: Tensor) -> tuple[Tensor, Tensor | None, Memory]:
        before = [None] * len(inputs) if memory is None else memory
        pairs = zip(before, starts.tolist(), strict=True)
        now = tuple(reset_copy(source) if own is None or start else copied(own) for own, start in pairs)
        return *head.gaussian(ask(now, inputs.cpu().numpy()).to(device)), now

    def restore(saved: list[Any]) -> Memory:
        return tuple(_restored(reset_copy(source), state, name) for state in saved)

    return head.changed(gaussian=needs_memory(name), step=step, value=None, keep=_saved, restore=restore)


def _name(source: Any) -> str:
    return f"controller {getattr(source, '__name__', type(source).__name__)}"


def _answer(controller: Any, observation: np.ndarray, name: str) -> Tensor:
    """The action of one controller, in the task's units, float32."""
    try:
        given = action_of(controller, observation)
        return torch.as_tensor(given).detach().to("cpu", torch.float32)
    except Exception as error:  # a user's object may fail in any way
        raise PolicyKDError(
            f"teacher: {name} fails on an observation (O,) of NumPy ({type_and_text(error)})"
        ) from error


def _attributes(controller: Any) -> Any:
    """Its attributes as those of an environment without wrappers, under names with no special meaning there."""
    return SimpleNamespace(**{f"own {name}": value for name, value in vars(controller).items()})


def _saved(memory: Memory) -> list[Any]:
    """State of controllers for a checkpoint: their attributes if these are plain values, otherwise None."""
    plain = [hasattr(own, "__dict__") and not unsaved_state(_attributes(own)) for own in memory]
    return [get_env_state(_attributes(own)) if fine else None for own, fine in zip(memory, plain, strict=True)]


def _restored(controller: Any, state: Any, name: str) -> Any:
    """Restore a freshly reset controller to its state in a checkpoint."""
    if state is None:
        log.warning("not exact: teacher %s keeps state that cannot be saved: it is reset in mid-episode", name)
        return controller
    attributes = _attributes(controller)
    set_env_state(attributes, state)
    vars(controller).update({key.removeprefix("own "): value for key, value in vars(attributes).items()})
    return controller
