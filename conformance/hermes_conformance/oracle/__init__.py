"""The oracle's instruments: derivatives, rounding noise, trajectories."""
