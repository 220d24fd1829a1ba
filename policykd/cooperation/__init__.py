"""Cooperative distillation: classifiers of any kind teach one another where they are strong."""

from importlib.util import find_spec

from policykd.core.extras import import_extra

if not find_spec("sklearn"):  # the settings alone do not import it
    import_extra("sklearn", "cooperative")  # fails in one line, whichever module is imported first
