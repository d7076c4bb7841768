"""Low-rank adapters, as the weights they stand for. NumPy, float64."""


def adapted(weight, a, b, lora):
    """W + alpha / rank B A, for W x + alpha / rank B A x = (W + alpha / rank B A) x. (out, in)

    weight (out, in), a (rank, in), b (out, rank). Source: Hu et al. 2021, arXiv:2106.09685, eq. 3.
    """
    return weight + lora.alpha / lora.rank * (b @ a)
