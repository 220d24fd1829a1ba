"""Students initialised between a random network and their teacher (Stanton et al. 2021, section 6.2).

If optimisation is what keeps a student from matching its teacher, one initialised close enough will match it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError


def between(
    student: nn.Module, teacher: nn.Module, fraction: float, batches: Iterable[Tensor] | None = None
) -> nn.Module:
    """Copy ``student`` with weights ``fraction * teacher + (1 - fraction) * student``.

    The fraction is the paper's lambda; the released code's ``loc_param`` is 1 - lambda.

    Args:
        student: a freshly initialised network of the teacher's architecture.
        teacher: its teacher.
        fraction: between 0 (student) and 1 (teacher).
        batches: inputs from which batch-norm statistics, which cannot be interpolated, are re-estimated; required for
            networks with batch norm.

    Raises:
        PolicyKDError: the architectures differ, the fraction is out of range, or inputs for batch norm are missing.
    """
    if not 0 <= fraction <= 1:
        raise PolicyKDError(f"between: fraction={fraction} must lie in [0, 1]")
    ours, theirs = student.state_dict(), teacher.state_dict()
    differing = [name for name in {**ours, **theirs} if _shape(ours, name) != _shape(theirs, name)]
    if differing:
        raise PolicyKDError(f"between: student and teacher have different architectures: {differing[0]} differs")
    result = copy.deepcopy(student)
    result.load_state_dict(
        {
            name: torch.lerp(value, theirs[name].to(value), fraction) if value.is_floating_point() else value
            for name, value in ours.items()
        }
    )
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in result.modules()):
        if batches is None:
            raise PolicyKDError("between: the network has batch norm: give batches to estimate its statistics from")
        torch.optim.swa_utils.update_bn(batches, result)
    return result


def learning_rate(base: float, fraction: float) -> float:
    """The learning rate for a student initialised so: ``base * (1 - fraction)``, at least 1e-6."""
    return max(base * (1 - fraction), 1e-6)


def _shape(state: dict[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None
