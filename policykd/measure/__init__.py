"""What is made of trained policies: fidelity, pictures, videos."""
