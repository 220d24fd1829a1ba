"""A disk without room, as a process sees it: files cannot grow beyond a size."""

import resource
import signal
from contextlib import contextmanager


@contextmanager
def full_disk(size=0):
    """Writing a file beyond ``size`` bytes is an ``OSError`` here and in processes that begin here."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
