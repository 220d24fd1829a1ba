"""Cooperative distillation: learners of any kind teach one another where they are strong."""

from importlib.util import find_spec

from policykd.core.extras import needs

if not find_spec("sklearn"):  # which settings alone do not import
    needs("sklearn", "cooperative")  # one line that says what to install, from whichever module one begins
