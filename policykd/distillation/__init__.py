"""Learning from another policy: how far, how much, how long, from whom."""
