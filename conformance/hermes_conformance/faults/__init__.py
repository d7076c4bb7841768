"""Faults planted on purpose, in memory: a suite that has never failed has proved nothing."""
