"""Operations of a step, against those that torch counts while it takes one, and by hand."""

import numpy as np
import pytest

from hermes.interface import Batch, TrainState
from hermes.model_info.cost import count_flops
from hermes.model_info.step_flops import make_step_flops
from hermes.numerics.lora import init_adapters
from hermes.recipe import Lora, Recipe
from tests.backends.support import FLOAT32, make_batch, make_learner, make_spec, make_weights
from tests.model_info.models import model

LAYERS = 3
RECIPES = {
    "all": Recipe(),
    "first layer": Recipe(freeze_layers=1),
    "all layers": Recipe(freeze_layers=LAYERS),
    "feed-forward": Recipe(freeze=("*mlp*",)),
    "all but a norm": Recipe(freeze=("model.embed*", "*layers.[01]*", "*proj*")),
    "embeddings": Recipe(freeze=("model.embed*", "*norm*")),
    "queries and values": Recipe(lora=Lora(rank=2, targets=("q_proj", "v_proj"))),
    "every adapter": Recipe(lora=Lora(rank=4)),
    "last matrices": Recipe(lora=Lora(rank=2, targets=("down_proj",))),
}


def make_state(spec, recipe):
    weights = make_weights(spec)
    adapters = init_adapters(spec, recipe.lora, 0, weights) if recipe.lora else {}
    return TrainState({**weights, **dict(adapters)}, {}, {}, 0)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("tied", [False, True])
def test_products_are_those_that_torch_counts(name, tied):
    """Its counter has none of a CPU's attention: only products with weights."""
    counter = pytest.importorskip("torch.utils.flop_counter")
    spec, recipe, batch = make_spec(layers=LAYERS, tied=tied), RECIPES[name], make_batch(A=2, B=3)
    learner = make_learner("torch", spec, recipe, FLOAT32, make_state(spec, recipe))
    with counter.FlopCounterMode(display=False) as counted:
        learner.step(batch, 1e-3)
    products = make_step_flops(spec, recipe).per_position * batch.tokens.size
    assert products == counted.get_total_flops()


def test_where_all_is_trained_they_are_those_of_the_model():
    spec, batch = make_spec(layers=LAYERS), make_batch(A=2, B=3, T=10)
    expected = count_flops(spec, training=True, length=10) * batch.tokens.size
    assert make_step_flops(spec, Recipe()).count(batch) == expected


def test_attention_before_what_is_trained_has_no_backward_pass():
    spec = make_spec(layers=LAYERS)
    (attention,) = make_step_flops(spec, Recipe()).per_key
    forward = 2 * attention.num_heads * (attention.head_size + attention.value_size)
    for frozen, passes in enumerate((9, 7, 5, 3)):
        found = make_step_flops(spec, Recipe(freeze_layers=frozen)).per_key
        assert found == {attention: passes * forward}
    last = Recipe(lora=Lora(rank=2, targets=("down_proj",)))
    assert make_step_flops(spec, last).per_key == {attention: 7 * forward}


@pytest.mark.parametrize(
    ("attention", "keys"),
    [
        # Documents of 3, 1 and 4 tokens in the first row, of 6 and 2 in the second.
        ("", (1 + 2 + 3) + 1 + (1 + 2 + 3 + 4) + (1 + 2 + 3 + 4 + 5 + 6) + (1 + 2)),
        ("window_size: 2", (1 + 2 + 2) + 1 + (1 + 2 + 2 + 2) + (1 + 5 * 2) + (1 + 2)),
        ("causal: false", 9 + 1 + 16 + 36 + 4),
    ],
)
def test_a_query_has_the_keys_of_its_own_document(attention, keys):
    spec = model(attention=attention)
    # One document ends with a row, and the next row begins with another of the same number.
    segments = np.array([[[0, 0, 0, 1, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2, 0, 0]]], np.int32)
    ids = np.zeros_like(segments)
    packed = Batch(ids, ids, np.zeros((1, 2), np.uint32), segments)
    found = make_step_flops(spec, Recipe())
    attended = found.count(packed) - found.per_position * ids.size
    assert attended == keys * sum(found.per_key.values())
    whole = Batch(ids, ids, np.zeros((1, 2), np.uint32))
    assert found.count(whole) > found.count(packed)
