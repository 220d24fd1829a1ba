"""Foundations of the package: errors, settings, networks and files."""
