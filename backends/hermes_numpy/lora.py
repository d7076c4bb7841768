"""Low-rank adapters, as the weights that they amount to. NumPy, float64."""

from numpy import ndarray as Array

from hermes.recipe import Lora


def merge_adapter(weight: Array, a: Array, b: Array, lora: Lora) -> Array:
    """W + alpha / rank B A, whose product with x is W x + alpha / rank B (A x).

    (out, in), (rank, in), (out, rank) -> (out, in).
    Source: Hu et al. 2021, LoRA, arXiv:2106.09685, eq. 3.
    """
    return weight + lora.alpha / lora.rank * (b @ a)
