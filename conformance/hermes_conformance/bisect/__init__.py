"""Bisection: the first tensor in which two backends differ."""
