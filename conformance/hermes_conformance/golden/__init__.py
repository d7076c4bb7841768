"""Vectors made by the oracle."""
