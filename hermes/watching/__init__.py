"""A page on this machine that follows runs: curves, samples, settings."""
