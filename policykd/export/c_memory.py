"""C code of policies with memory: a state, which the caller keeps."""

from __future__ import annotations

import numpy as np

from policykd.export.plain import LEVELS, Layer, PlainPolicy

SIGNATURE = """\
void policy_act(const float observation[POLICY_OBSERVATIONS], int start, float state[POLICY_STATE],
                float action[POLICY_ACTIONS])"""
ABOUT = """\
/* One raw observation to its action in the task's units. Deterministic, reentrant: the caller keeps one state for each
   episode. start is 1 at the first observation of an episode, before which the state may hold anything, and then 0. */\
"""
UNITS = """\
static float sigmoid(float x)
{{
    return 0.5f * tanh_of(0.5f * x) + 0.5f;
}}

/* Gated recurrent units (Cho et al. 2014), as torch computes them: reset, update and candidate side by side. */
static void remember(const {number} *input, float *hidden)
{{
    float from_input[{gates}], from_state[{gates}];
    int i;
{say}
    for (i = 0; i < {width}; i++) {{
        const float reset = sigmoid(from_input[i] + from_state[i]);
        const float update = sigmoid(from_input[i + {width}] + from_state[i + {width}]);
        const float candidate = tanh_of(from_input[i + {both}] + reset * from_state[i + {both}]);
        hidden[i] = candidate + update * (hidden[i] - candidate);
    }}
}}
"""
SAY = """\
    layer(from_input_weight, from_input_bias, input, {inputs}, from_input, {gates});
    layer(from_state_weight, from_state_bias, hidden, {width}, from_state, {gates});"""
SAY_INT8 = """\
    int8_t read[{width}];
    for (i = 0; i < {width}; i++) read[i] = level(hidden[i] * {levels}.0f);
    layer(from_input_weight, from_input_scale, from_input_bias, input, {inputs}, from_input, {gates});
    layer(from_state_weight, from_state_scale, from_state_bias, read, {width}, from_state, {gates});"""


def arrays(policy: PlainPolicy) -> dict[str, np.ndarray]:
    """The constants of the recurrent units by name in C."""
    if policy.units is None:
        return {}
    found: dict[str, np.ndarray] = {}
    for name, layer in zip(("from_input", "from_state"), policy.units, strict=True):
        found |= layer_arrays(layer, f"{name}_{{}}")
    return found


def layer_arrays(layer: Layer, name: str) -> dict[str, np.ndarray]:
    """The constants of a layer by name in C, formatted into ``name``; int8 weights are transposed to ``(out, in)``."""
    if layer.scale is None:
        return {name.format("weight"): layer.weight, name.format("bias"): layer.bias}
    found = {"weight": layer.weight.T, "bias": layer.bias, "scale": layer.scale}
    return {name.format(kind): values for kind, values in found.items()}


def units(policy: PlainPolicy) -> list[str]:
    """The function that updates the recurrent units, if any."""
    if not (width := policy.width):
        return []
    sizes = {"inputs": policy.input_size, "width": width, "gates": 3 * width}
    say = (SAY_INT8 if policy.quantised else SAY).format(levels=LEVELS, **sizes)
    return [UNITS.format(number="int8_t" if policy.quantised else "float", both=2 * width, say=say, **sizes)]


def push(policy: PlainPolicy, observe: str) -> list[str]:
    """Lines that append a part, of which ``observe`` is entry i, to the earlier ones at the start of the state."""
    earlier, part = policy.input_size - policy.part_size, policy.part_size
    first = observe.replace("[i]", f"[i % {part}]")
    return [
        "/* The latest parts, oldest first; an episode begins with its first one repeated. */",
        f"for (i = 0; i < {earlier}; i++) state[i] = start ? {first} : state[i + {part}];",
        f"for (i = 0; i < {part}; i++) state[i + {earlier}] = {observe};",
    ]


def recall(policy: PlainPolicy) -> list[str]:
    """Lines that update the units from the input, stored after them in ``a`` or ``q``, and copy them there."""
    width, kept = policy.width, policy.state_size - policy.width
    place, value = "a", f"state[i + {kept}]"
    if policy.quantised:
        place, value = "q", f"level({value} * {LEVELS}.0f)"
    return [
        f"for (i = 0; i < {width} && start; i++) state[i + {kept}] = 0.0f;",
        f"remember({place} + {width}, state + {kept});",
        f"for (i = 0; i < {width}; i++) {place}[i] = {value};",
    ]
