"""Experiments: one folder per question, each with what runs it and what makes its tables (see README.md)."""
