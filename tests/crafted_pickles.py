"""Pickles that mean harm: what they would call, and bytes that no pickler writes."""

import functools
import importlib
import operator
import os
import pickle
import struct
import subprocess
from collections import OrderedDict

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env.vec_normalize import VecNormalize


class Calls:
    """Pickled, it is a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def calls(mark, secret):
    """Calls that write the file ``mark``, read the file ``secret``, run a program, or forge a pointer."""
    code = f"open({mark!r}, 'w').close()"
    return {
        "system": Calls(os.system, f"touch {mark}"),
        "exec": Calls(exec, code),
        "eval": Calls(eval, code),
        "open": Calls(open, mark, "w"),
        "getattr": Calls(getattr, "text", "upper"),
        "partial": Calls(functools.partial, exec, code),
        "attrgetter": Calls(operator.attrgetter("mean.__class__"), "text"),
        "import": Calls(importlib.import_module, "canary_module"),
        "Popen": Calls(subprocess.Popen, ["touch", mark]),
        "load": Calls(np.load, secret),
        "fromfile": Calls(np.fromfile, secret),
        "memmap": Calls(np.memmap, secret),
        "pickle": Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {mark}"))),
        "ndarray of objects": Calls(np.ndarray, (3,), "O", b"A" * 24),
        "frombuffer": Calls(np.frombuffer, b"A" * 24, "f8"),
        "array of objects": Calls(
            np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1, (3,), np.dtype("O"), False, b"A" * 24)
        ),
        "too few bytes": Calls(
            np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1, (10**9,), np.dtype("f8"), False, b"A")
        ),
        "negative shape": Calls(
            np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1, (-1,), np.dtype("f8"), False, b"")
        ),
        "matrix": Calls(
            np._core.multiarray._reconstruct,
            np.ndarray,
            (0,),
            b"b",
            state=(1, (1, 5), np.dtype("f8"), False, b"A" * 40),
        ),
        "dtype of objects": Calls(np._core.multiarray.scalar, np.dtype("f8"), b"A"),
    }


def normaliser(mean, epsilon=1e-8):
    """A ``VecNormalize`` as it is pickled, with these statistics."""
    statistics, wrapper = RunningMeanStd.__new__(RunningMeanStd), VecNormalize.__new__(VecNormalize)
    vars(statistics).update(mean=mean, var=np.ones(5), count=1.0)
    vars(wrapper).update(
        epsilon=epsilon, clip_obs=10.0, norm_obs=True, norm_reward=False, obs_rms=statistics, ret_rms=statistics
    )
    vars(wrapper).update(venv=None, class_attributes={}, returns=None)
    return wrapper


def of_bytes():
    """Pickles by instruction."""
    deep = b"\x80\x02}" + b")" + b"\x85" * 150_000
    return {
        "empty": b"",
        "text": b"hello",
        "no end": b"\x80\x04}",
        "stack underflow": b"\x80\x02R.",
        "no mark": b"\x80\x02u.",
        "deep key": deep + b"Ns.",
        "deep value": b"\x80\x02}X\x01\x00\x00\x00a" + b")" + b"\x85" * 150_000 + b"s.",
        "long": b"\x80\x02" + b"}0" * 500_000 + b"N.",
        "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"A.",
        "huge text": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"A.",
        "huge memo": b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b".",
        "colliding memo": b"".join(b"}p%d\n0" % (k * (2**61 - 1)) for k in range(60_000)) + b"N.",
        "colliding keys": b"}(" + b"".join(b"I%d\nN" % (k * (2**61 - 1)) for k in range(60_000)) + b"u.",
        "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent id": b"Pid\n.",
        "buffer": b"\x80\x05\x97.",
        "unicode name": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        "inst": b"(S'touch x'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'touch x'\no.",
        "newobj_ex": b"\x80\x04cos\nsystem\n(S'touch x'\nt}\x92.",
        "build on a dict": b"\x80\x02}}b.",
        "build on a name": b"\x80\x02cnumpy\nndarray\n}b.",
        "name with a line": b"\x80\x04\x8c\x04a\nb\nc\x8c\x01d\x93.",
        "bomb": b"\x80\x02]" + b"".join(b"q%c(h%ch%ce" % (k, k, k) for k in range(100)) + b".",
        "itself": b"\x80\x02]q\x00h\x00a.",
        "large number": b"\x80\x02\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6 + b".",
        "ordered": pickle.dumps(OrderedDict(a=1), 0),
    }
