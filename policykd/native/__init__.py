"""MLPs, GRUs and Adam in C for small networks on the CPU, where torch's overhead dominates.

The kernels are compiled at first use, and optional: if they are unavailable, ``usable`` is false,
``reason()`` says why, and callers use torch. The environment variable ``POLICYKD_NATIVE=0`` disables them.
"""

from policykd.native.gru import gru
from policykd.native.kernels import adam_, mlp, reason, usable
from policykd.native.precision import Precision, precision, supports
from policykd.native.threads import Threads, cores, count, threads
from policykd.native.traced import prepare_to_compile

__all__ = [
    "Precision",
    "Threads",
    "adam_",
    "cores",
    "count",
    "gru",
    "mlp",
    "precision",
    "prepare_to_compile",
    "reason",
    "supports",
    "threads",
    "usable",
]
