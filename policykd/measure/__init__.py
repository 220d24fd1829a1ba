"""Measurements of trained policies: fidelity, the doctor's checks, footprint, plots, videos."""
