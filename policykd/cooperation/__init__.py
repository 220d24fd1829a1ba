"""Cooperative distillation: learners of any kind teach one another where they are strong."""

from policykd.core.extras import needs

needs("sklearn", "cooperative")  # one line that says what to install, from whichever module one begins
