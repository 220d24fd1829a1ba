"""Generates a policy in C99: constants and one function, without libraries; float32 or int8."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from policykd.core.errors import PolicyKDError
from policykd.core.normaliser import CLIP
from policykd.export import c_memory
from policykd.export.plain import LEVELS, TANH_EVEN, TANH_LIMIT, TANH_ODD, TANH_TINY, PlainPolicy

SIGNATURE = "void policy_act(const float observation[POLICY_OBSERVATIONS], float action[POLICY_ACTIONS])"
ABOUT = "/* One raw observation to its action in the task's units. Deterministic, reentrant, no state. */"
HEADER = """\
{about}
#ifndef POLICY_H
#define POLICY_H

#define POLICY_OBSERVATIONS {observations}
#define POLICY_ACTIONS {actions}
{state}
#ifdef __cplusplus
extern "C" {{
#endif

{what}
{signature};

#ifdef __cplusplus
}}
#endif

#endif
"""
TANH = """\
/* tanh within 4e-7: a rational function, as in Eigen and XLA. */
static float tanh_of(float x)
{{
    const float limited = x > {limit} ? {limit} : x < -{limit} ? -{limit} : x;
    const float square = limited * limited;
    const float odd = {odd};
    const float even = {even};
    return x > -{tiny} && x < {tiny} ? x : limited * odd / even;
}}
"""
CLIP_OF = """\
static float clip(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}
"""
FLOAT_LAYER = """\
/* Weights are (inputs, outputs): the inner loop runs over outputs, which a compiler vectorises without fast-math. */
static void layer(const float *weight, const float *bias, const float *input, int inputs, float *output, int outputs)
{
    int i, o;
    for (o = 0; o < outputs; o++) output[o] = bias[o];
    for (i = 0; i < inputs; i++)
        for (o = 0; o < outputs; o++) output[o] += input[i] * weight[i * outputs + o];
}
"""
INT8_LAYER = """\
/* Weights are (outputs, inputs): sums of int8 products, which are exact, times one scale per output. */
static void layer(const int8_t *weight, const float *scale, const float *bias, const int8_t *input, int inputs,
                  float *output, int outputs)
{
    int i, o;
    for (o = 0; o < outputs; o++) {
        int32_t sum = 0;
        for (i = 0; i < inputs; i++) sum += (int32_t)weight[o * inputs + i] * input[i];
        output[o] = (float)sum * scale[o] + bias[o];
    }
}

/* The nearest of -LEVELS to LEVELS (NaN: -LEVELS). */
static int8_t level(float x)
{
    if (!(x > -LEVELSf)) return -LEVELS;
    if (x > LEVELSf) return LEVELS;
    return (int8_t)(x < 0.0f ? x - 0.5f : x + 0.5f);
}
""".replace("LEVELSf", f"{LEVELS}.0f").replace("LEVELS", str(LEVELS))


def header(policy: PlainPolicy, about: list[str]) -> str:
    """The text of ``policy.h``; ``about`` is its opening comment."""
    comment = "/* " + "\n * ".join(line.replace("*/", "* /") for line in about) + "\n */"
    return HEADER.format(
        about=comment,
        observations=policy.observation_size,
        actions=policy.sizes[-1],
        state=f"#define POLICY_STATE {policy.state_size}\n" if policy.state_size else "",
        what=c_memory.ABOUT if policy.state_size else ABOUT,
        signature=_signature(policy),
    )


def source(policy: PlainPolicy) -> str:
    """The text of ``policy.c``."""
    includes = ['#include "policy.h"', *(["#include <stdint.h>"] if policy.quantised else [])]
    constants = [_array(name, values) for name, values in _arrays(policy).items()]
    helpers = [CLIP_OF, *([_tanh()] if policy.tanh or policy.squash or policy.width else [])]
    layer = INT8_LAYER if policy.quantised else FLOAT_LAYER
    return "\n".join(["\n".join(includes), "", *constants, *helpers, layer, *c_memory.units(policy), _act(policy)])


def constant_bytes(policy: PlainPolicy) -> int:
    """Bytes of flash for the constants."""
    return sum(values.nbytes for values in _arrays(policy).values())


def buffer_bytes(policy: PlainPolicy) -> int:
    """Bytes of RAM for the buffers, on the stack: the widest layer twice, one of them in int8 if quantised.

    Plus six numbers for each recurrent unit, its gates from input and state; if quantised the state once more.
    """
    small = 1 if policy.quantised else 4
    units = (2 * 3 * 4 + (1 if policy.quantised else 0)) * policy.width
    return max(policy.sizes) * (4 + small) + units


def _signature(policy: PlainPolicy) -> str:
    return c_memory.SIGNATURE if policy.state_size else SIGNATURE


def _arrays(policy: PlainPolicy) -> dict[str, np.ndarray]:
    """The constants by name in C."""
    arrays = {"action_low": policy.low, "action_high": policy.high, **c_memory.arrays(policy)}
    if policy.columns is not None:
        arrays["column"] = policy.columns
    if policy.squash:
        arrays |= {"middle": (policy.high + policy.low) / 2, "half_range": (policy.high - policy.low) / 2}
    if policy.normaliser is not None:
        arrays |= dict(zip(("mean", "mean_rest", "inverse_std"), policy.normaliser, strict=True))
    if policy.input_scale is not None:
        arrays["input_scale"] = policy.input_scale[policy.width :]
    for number, layer in enumerate(policy.layers):
        arrays |= c_memory.layer_arrays(layer, f"{{}}_{number}")
    return arrays


def _array(name: str, values: np.ndarray) -> str:
    kind = {"int8": "int8_t", "int16": "short", "int32": "int"}.get(values.dtype.name, "float")
    per_line = 8 if kind == "float" else 24
    words = [number(value) if kind == "float" else str(value) for value in values.reshape(-1)]
    lines = [", ".join(words[i : i + per_line]) for i in range(0, len(words), per_line)]
    return f"static const {kind} {name}[{len(words)}] = {{\n    " + ",\n    ".join(lines) + "\n};\n"


def number(value: float) -> str:
    """A float32 in C, exactly.

    Raises:
        PolicyKDError: it is infinite or NaN, for which C without libraries has no literal.
    """
    if not np.isfinite(value):
        raise PolicyKDError(f"export: the policy holds {value}, which has no constant in C: use onnx or torchscript")
    text = f"{np.float32(value):.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


def _tanh() -> str:
    def horner(coefficients: tuple[float, ...]) -> str:
        *rest, last = coefficients
        text = number(last)
        for coefficient in reversed(rest):
            text = f"({text} * square + {number(coefficient)})"
        return text

    return TANH.format(limit=number(TANH_LIMIT), tiny=number(TANH_TINY), odd=horner(TANH_ODD), even=horner(TANH_EVEN))


def _act(policy: PlainPolicy) -> str:
    sizes, widest = policy.sizes, max(policy.sizes)
    observe, pushed = "observation[i]" if policy.columns is None else "observation[column[i]]", []
    if policy.history > 1:
        observe, pushed = "state[i]", c_memory.push(policy, observe)
    if policy.normaliser is not None:  # the order of the subtractions matters: no -ffast-math
        observe = f"clip(({observe} - mean[i] - mean_rest[i]) * inverse_std[i], -{number(CLIP)}, {number(CLIP)})"
    target, inputs, outputs = f"a[i + {policy.width}]" if policy.width else "a[i]", "a", "b"
    lines = [f"float a[{widest}], b[{widest}];"]
    if policy.quantised:
        observe = f"level({observe} * input_scale[i])"
        target, inputs, outputs = target.replace("a", "q"), "q", "b"
        lines = [f"int8_t q[{widest}];", f"float b[{widest}];"]
    lines += ["int i;", *pushed, f"for (i = 0; i < {policy.input_size}; i++) {target} = {observe};"]
    lines += c_memory.recall(policy) if policy.width else []
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
        scale = f"scale_{layer}, " if policy.quantised else ""
        lines.append(f"layer(weight_{layer}, {scale}bias_{layer}, {inputs}, {rows}, {outputs}, {columns});")
        if layer == len(sizes) - 2:
            break
        active = f"tanh_of({outputs}[i])" if policy.tanh else f"({outputs}[i] < 0.0f ? 0.0f : {outputs}[i])"
        if policy.quantised:
            active = f"level({active}{f' * {LEVELS}.0f' if policy.tanh else ''})"
            lines.append(f"for (i = 0; i < {columns}; i++) q[i] = {active};")
        else:
            lines.append(f"for (i = 0; i < {columns}; i++) {outputs}[i] = {active};")
            inputs, outputs = outputs, inputs
    value = f"tanh_of({outputs}[i]) * half_range[i] + middle[i]" if policy.squash else f"{outputs}[i]"
    lines.append(f"for (i = 0; i < {sizes[-1]}; i++) action[i] = clip({value}, action_low[i], action_high[i]);")
    body = "\n".join(f"    {line}" for line in lines)
    return f"{_signature(policy)}\n{{\n{body}\n}}\n"
