"""The oracle: hermes in NumPy float64, slow and forward only, every formula as it is defined.

The executable half of `specs/numerics.md`. It shares nothing with the backends it judges but the
specification.
"""
