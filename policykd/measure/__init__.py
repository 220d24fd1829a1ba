"""What is made of trained policies: fidelity, the doctor's checks, footprint, pictures, videos."""
