"""hermes in MLX: Apple Silicon, and MLX's CPU build on Linux.

On Linux the MLX wheel carries the reference BLAS, some fifty times slower than an optimised one.
Where torch is installed its library has one, and `hermes_mlx.blas` makes it visible before MLX is
loaded; that is why this package must be imported before `mlx.core`.
"""

from hermes_mlx import blas

FAST_BLAS = blas.lend()
