"""What a policy that remembers its episode adds to its C: a state, which the caller keeps."""

from __future__ import annotations

import numpy as np

from policykd.export.plain import PlainPolicy

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
static void remember(const float *input, float *hidden)
{{
    float seen[{gates}], heard[{gates}];
    int i;
    layer(seen_weight, seen_bias, input, {inputs}, seen, {gates});
    layer(heard_weight, heard_bias, hidden, {width}, heard, {gates});
    for (i = 0; i < {width}; i++) {{
        const float reset = sigmoid(seen[i] + heard[i]);
        const float update = sigmoid(seen[i + {width}] + heard[i + {width}]);
        const float candidate = tanh_of(seen[i + {both}] + reset * heard[i + {both}]);
        hidden[i] = candidate + update * (hidden[i] - candidate);
    }}
}}
"""


def arrays(policy: PlainPolicy) -> dict[str, np.ndarray]:
    """The constants of the units by their names in C."""
    if policy.units is None:
        return {}
    seen, heard = policy.units
    return {
        "seen_weight": seen.weight,
        "seen_bias": seen.bias,
        "heard_weight": heard.weight,
        "heard_bias": heard.bias,
    }


def units(policy: PlainPolicy) -> list[str]:
    """The function that renews them, if any."""
    if not (width := policy.width):
        return []
    return [UNITS.format(inputs=policy.input_size, width=width, both=2 * width, gates=3 * width)]


def push(policy: PlainPolicy, observe: str) -> list[str]:
    """Lines that put a part, ``observe`` its number i, behind the earlier ones, which lie first in the state."""
    earlier, part = policy.input_size - policy.part_size, policy.part_size
    first = observe.replace("[i]", f"[i % {part}]")
    return [
        "/* The latest parts, oldest first; an episode begins with its first one repeated. */",
        f"for (i = 0; i < {earlier}; i++) state[i] = start ? {first} : state[i + {part}];",
        f"for (i = 0; i < {part}; i++) state[i + {earlier}] = {observe};",
    ]


def recall(policy: PlainPolicy) -> list[str]:
    """Lines that renew the units by the input, which lies behind their place in ``a``, and put them there."""
    width, kept = policy.width, policy.state_size - policy.width
    return [
        f"for (i = 0; i < {width} && start; i++) state[i + {kept}] = 0.0f;",
        f"remember(a + {width}, state + {kept});",
        f"for (i = 0; i < {width}; i++) a[i] = state[i + {kept}];",
    ]
