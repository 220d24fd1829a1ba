"""Quantises a policy to int8: static post-training quantisation (Jacob et al. 2018; Krishnamoorthi 2018).

Weights are symmetric with one scale per output, activations symmetric with ranges observed at calibration. Each unit
has its own range, folded into the weights of the next layer, so one wide observation does not cost the others
precision. The state of gated recurrent units has the range [-1, 1]: layers read it in int8, but it is kept in float32,
so that small updates are not lost.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from policykd.core.errors import PolicyKDError
from policykd.export.plain import LEVELS, GRUCell, Layer, PlainPolicy, linear

SILENT = 1e-30
"""A unit whose magnitude stays below this counts as dead: its levels per unit would overflow float32."""


def quantise(policy: PlainPolicy, states: np.ndarray, remembered: np.ndarray | None = None) -> PlainPolicy:
    """Quantise a policy to int8.

    Args:
        policy: the policy in float32.
        states: inputs ``(n, I)`` to calibrate on.
        remembered: state of its recurrent units after each, if it has any, ``(n, H)``.

    Raises:
        PolicyKDError: there are no states, or they do not fit.
    """
    hidden = policy.normalise(check_states(states, policy.input_size))
    steps, units = _steps(hidden), policy.units
    if units is not None:
        assert remembered is not None
        own = _even(policy.width)
        units = GRUCell(_in_int8(units.from_input, steps), _in_int8(units.from_state, own))
        hidden, steps = np.concatenate((remembered, hidden), axis=1), np.concatenate((own, steps))
    input_scale, layers = (1 / steps).astype(np.float32), []
    for number, layer in enumerate(policy.layers):
        hidden, read = policy.activate(linear(layer, hidden)), steps
        if number == len(policy.layers) - 1:
            layers.append(_in_int8(layer, read))
        elif policy.tanh:
            steps = _even(hidden.shape[1])
            layers.append(_in_int8(layer, read))
        else:  # relu(x / step) is relu(x) / step: rescaling costs nothing
            steps = _steps(hidden)
            layers.append(_in_int8(layer, read, steps))
    return replace(policy, layers=tuple(layers), input_scale=input_scale, units=units)


def check_states(states: np.ndarray, size: int, least: int = 2) -> np.ndarray:
    """Check states for calibration, and convert them to float32 ``(n, O)``.

    Raises:
        PolicyKDError: they are fewer than ``least``, not finite, or of another shape.
    """
    states = np.asarray(states)
    fits = states.ndim == 2 and states.shape[1] == size and len(states) >= least and states.dtype.kind in "fiub"
    states = states.astype(np.float32, copy=False) if fits else states
    if not fits or not np.isfinite(states).all():
        raise PolicyKDError(f"export: calibration needs {least} or more finite states (n, {size}), got {states.shape}")
    return states


def _in_int8(layer: Layer, steps: np.ndarray, unit: np.ndarray | float = 1.0) -> Layer:
    """A layer with int8 inputs of step sizes ``steps (in,)`` and outputs in units of ``unit``."""
    folded = layer.weight * steps[:, None]
    scale = np.abs(folded).max(0) / LEVELS
    scale[scale == 0] = 1
    weight = np.rint(folded / scale).astype(np.int8)
    return Layer(weight, (layer.bias / unit).astype(np.float32), (scale / unit).astype(np.float32))


def _even(count: int) -> np.ndarray:
    """Step sizes ``(count,)`` of int8 for units in [-1, 1]."""
    return np.full(count, 1 / LEVELS, np.float32)


def _steps(values: np.ndarray) -> np.ndarray:
    """Step size of int8 for every unit, from its largest magnitude; dead units get the largest one."""
    ranges = np.abs(values).max(0)
    widest = ranges.max()
    ranges[ranges < SILENT] = widest if widest >= SILENT else 1
    return (ranges / LEVELS).astype(np.float32)
