"""Measures of a student: accuracy, fidelity to its teacher, and transferred information."""
