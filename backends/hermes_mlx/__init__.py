"""hermes in MLX: Apple silicon, and MLX's CPU build on Linux.

MLX's wheel for Linux has the reference BLAS, some fifty times slower than an optimised one. Where
torch is installed, its library has one, and `hermes_mlx.blas` loads it. It must be loaded before
MLX is, so import this package before `mlx.core`.
"""

from hermes_mlx import blas

FAST_BLAS = blas.preload()
