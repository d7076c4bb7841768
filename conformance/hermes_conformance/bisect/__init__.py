"""Bisect: where two backends part for the first time."""
