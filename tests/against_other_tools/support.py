"""What the outside oracles share: a model as other tools would find it, and the distance of two."""

import numpy as np

from hermes.interface import Options, find_backend
from hermes.interop.convert import convert
from hermes.numerics.params import init_weights
from tests.interop.models import bare, hot_weights

# float32 in another order of operations; the planted differences of the families are 1e-3 and up.
FLOAT32 = 2e-5
TOKENS = np.random.default_rng(0).integers(0, 96, (2, 40))


def folder_of(spec, path, weights=hot_weights):
    """A folder as `hermes convert --to hf` writes it."""
    convert(**bare(path, spec, weights(spec)), target=path / "hf", to="hf", backend="numpy")
    return path / "hf"


def logits_of(spec, backend, weights=hot_weights):
    """Our logits of TOKENS, by a backend's name; the oracle's are float64."""
    precision = "float64" if backend == "numpy" else "float32"
    options = Options(device="cpu", precision=precision)
    return find_backend(backend).build(spec, weights(spec), options).logits(TOKENS)


def quiet_weights(spec):
    """A run's first weights, as loud as a small eps, which louder ones hide."""
    return init_weights(spec, 0)


def distance(ours, theirs):
    """The relative difference of two tensors' norms."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
