"""Layers and tensors in few words."""

import pytest

from hermes.model_info.shape import format_ranges, group_tensors
from hermes.numerics.params import list_parameters
from tests.model_info.models import model


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([], ""),
        ([3], "3"),
        ([0, 1, 2, 5, 7, 8], "0-2, 5, 7-8"),
        (range(0, 40, 2), "0, 2, 4, 6, ..., 38"),
    ],
)
def test_spans_of_numbers(numbers, words):
    assert format_ranges(numbers) == words


def test_tensors_are_grouped_over_layers():
    table = list_parameters(model())
    names = [name for name in table if "q_proj" in name or "embed" in name]
    assert [label for label, _ in group_tensors(names, table)] == [
        "model.embed_tokens.weight",
        "model.layers.[0-2].self_attn.q_proj.weight",
    ]
