"""What a GPU gets of hermes_mlx where nobody says otherwise, on a CPU that says it is one."""

from collections import Counter

import mlx.core as mx
import pytest

from hermes.interface import Options, find_backend
from hermes_mlx.compiler import uses_compile
from hermes_mlx.inference import Decoder, DeviceDecoder
from hermes_mlx.ops import FAST, PLAIN
from hermes_mlx.row_decoder import DeviceRowDecoder, RowDecoder
from tests.backends.mlx.played_metal import play_metal
from tests.backends.support import make_batch, make_learner, make_spec, make_weights


@pytest.fixture(autouse=True)
def metal(monkeypatch):
    return play_metal(monkeypatch)


def build(**options):
    spec = make_spec()
    return find_backend("mlx").build(spec, make_weights(spec), Options(**options))


@pytest.mark.parametrize(
    ("device", "table", "decoder", "row_decoder"),
    [
        (None, FAST, DeviceDecoder, DeviceRowDecoder),
        ("gpu", FAST, DeviceDecoder, DeviceRowDecoder),
        ("cpu", PLAIN, Decoder, RowDecoder),
    ],
)
def test_a_gpu_has_mlx_kernels_and_chooses_tokens_itself(device, table, decoder, row_decoder):
    model = build(device=device)
    assert model.runtime.ops is table
    assert type(model.decoder(1, 8)) is decoder
    assert type(model.row_decoder(1, 8)) is row_decoder


@pytest.mark.parametrize(
    ("device", "wanted", "compiles"),
    [("gpu", None, True), ("gpu", False, False), ("cpu", None, False), ("cpu", True, True)],
)
def test_passes_are_compiled_on_a_gpu_unless_the_options_say_otherwise(device, wanted, compiles):
    """Those of training and of evaluation."""
    model = build(device=device, compile=wanted)
    assert uses_compile(model.runtime) == compiles
    assert model._evaluation.is_on == compiles


@pytest.mark.parametrize(("device", "is_ahead"), [("gpu", True), ("cpu", False)])
def test_numbers_of_a_step_are_read_behind_the_next_one_on_a_gpu_alone(device, is_ahead):
    learner = make_learner("mlx", make_spec(), options=Options(device=device, compile=False))
    assert learner.step(make_batch(), 1e-3).runs_ahead == is_ahead


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_a_step_of_decoding_runs_the_kernels_of_mlx_on_a_gpu_alone(monkeypatch, device):
    """Two norms a layer and one behind the last, and each layer's attention."""
    called = Counter()
    for name in ("rms_norm", "scaled_dot_product_attention"):
        monkeypatch.setattr(mx.fast, name, count_calls(called, name, getattr(mx.fast, name)))
    decoder = build(device=device).decoder(1, 8)
    decoder.advance(make_batch(B=1, T=3).tokens[0])
    called.clear()
    decoder.advance(make_batch(B=1, T=1).tokens[0])
    attention = {"scaled_dot_product_attention": 2} if device == "gpu" else {}
    assert called == {"rms_norm": 5, **attention}


def count_calls(called, name, function):
    """The function, whose calls are counted under a name."""

    def count(*arguments, **options):
        called[name] += 1
        return function(*arguments, **options)

    return count
