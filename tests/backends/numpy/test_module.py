"""NumPy's modules load parameters by their attribute paths."""

import numpy as np
import pytest

from hermes.errors import CheckpointError
from hermes_numpy.module import Module, Tensor


class Leaf(Module):
    def __init__(self):
        self.weight = Tensor(2, 3)
        self.bias = None


class Tree(Module):
    def __init__(self):
        self.first = Leaf()
        self.layers = [Leaf(), Leaf()]


def test_parameters_are_loaded_by_attribute_path_in_float64():
    paths = ("first.weight", "layers.0.weight", "layers.1.weight")
    tensors = {path: np.full((2, 3), i, np.float32) for i, path in enumerate(paths)}
    tree = Tree().load(tensors)
    found = tree.first.weight, tree.layers[0].weight, tree.layers[1].weight
    for weight, path in zip(found, paths, strict=True):
        np.testing.assert_array_equal(weight, tensors[path])
        assert (weight.dtype, type(weight)) == (np.float64, np.ndarray)
    assert tree.first.bias is None


def test_a_tensor_of_another_shape_is_refused_with_both_shapes():
    with pytest.raises(CheckpointError) as error:
        Leaf().load({"weight": np.zeros((3, 2))})
    assert str(error.value) == "tensor 'weight' has shape (3, 2), expected (2, 3)"


def test_a_parameter_that_was_never_loaded_gives_nan():
    assert np.isnan(Leaf().weight @ np.ones(3)).all()
