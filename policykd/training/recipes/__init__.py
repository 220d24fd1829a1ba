"""How a step is collected and learnt from, one file per way."""
