"""Decoding by steps that CUDA captures; on a CPU nothing is captured, and the steps are shown."""

import warnings

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hermes.errors import HermesError
from hermes.interface import Options, TokenChoice, find_backend
from hermes.numerics.params import init_weights
from hermes.spec import Alibi, AttentionSpec, BlockSpec, FfnSpec, ModelSpec, Rope
from hermes.spec.rope import DynamicScaling
from hermes_torch import static_decoder, static_rows, step_graphs
from hermes_torch.static_rows import StaticRowDecoder
from tests.backends.torch.recorded_steps import record_steps

V, CAPACITY = 37, 40
KINDS = {
    "rope": AttentionSpec(4, 2),
    "window": AttentionSpec(4, 2, window_size=6),
    "alibi": AttentionSpec(4, 2, position_encoding=Alibi()),
    "soft cap": AttentionSpec(4, 1, softcap=3.0),
    "sinks": AttentionSpec(4, 2, sinks=True),
}


def make_model(attention, **options):
    spec = ModelSpec((BlockSpec(attention, FfnSpec(hidden_dim=24)),), "m", "", V, 64, 16, 2)
    weights = {n: w * 10 if w.ndim > 1 else w for n, w in init_weights(spec, 0).items()}
    return find_backend("torch").build(spec, weights, Options("cpu", **options))


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(static_rows, "LEAST_WIDTH", 16)
    with record_steps() as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_replayed_steps_are_those_of_the_plain_decoder(kind, recorded):
    model = make_model(KINDS[kind])
    plain, static = model.decoder(2, CAPACITY), model.make_device_decoder(2, CAPACITY)
    ids = np.random.default_rng(0).integers(0, V, (2, CAPACITY))
    for first, last in [(0, 5), (5, 8), *((i, i + 1) for i in range(8, CAPACITY))]:
        expected, got = (one.advance(ids[:, first:last]) for one in (plain, static))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    # One recording for each width of the buffers that is read: 16, 32 and all 40, or the window's.
    assert len(recorded[0].captured) == (3 if kind != "window" else 2 + 1)
    assert list(recorded[0].captured[0].steps)


def test_rows_of_different_lengths_replay_one_recording(recorded):
    model = make_model(KINDS["rope"])
    plain, static = model.row_decoder(4, CAPACITY), model.make_device_row_decoder(4, CAPACITY)
    ids = np.random.default_rng(1).integers(0, V, (4, CAPACITY))
    read = [3, 1, 0, 7]
    for decoder in (plain, static):
        for row, count in enumerate(read):
            decoder.open_row(row, CAPACITY)
            if count:
                decoder.advance([row], ids[row : row + 1, :count], [count])
    random = np.random.default_rng(2)
    for _ in range(24):
        rows = sorted(random.choice(4, random.integers(1, 5), replace=False).tolist(), reverse=True)
        tokens = np.array([[ids[row, read[row]]] for row in rows])
        for row in rows:
            read[row] += 1
        expected, got = (one.advance(rows, tokens, [1] * len(rows)) for one in (plain, static))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert 1 <= len(recorded[0].captured) <= 2
    # What a row has read is not touched by steps in which it takes no part.
    ours, theirs = plain.read_row(2), static.read_row(2)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-4)


def test_a_full_row_is_not_overwritten_by_the_steps_of_others():
    model = make_model(KINDS["rope"])
    static = model.make_device_row_decoder(2, 8)
    for row in range(2):
        static.open_row(row, 8)
    static.advance([0], np.arange(8)[None], [8])
    before = static.read_row(0)
    static.advance([1], np.ones((1, 1), int), [1])
    for name, kept in static.read_row(0).items():
        np.testing.assert_array_equal(kept, before[name])


def test_rows_with_tables_of_their_own_are_read_as_plain_rows(recorded):
    rope = Rope(scaling=DynamicScaling(2.0, original_max_seq_len=16))
    model = make_model(AttentionSpec(4, 2, position_encoding=rope))
    plain, static = model.row_decoder(2, CAPACITY), model.make_device_row_decoder(2, CAPACITY)
    for _ in range(9):
        for decoder in (plain, static):
            decoder.open_row(0, 12)
            decoder.open_row(1, CAPACITY)
        tokens = np.array([[5], [6]])
        np.testing.assert_allclose(
            static.advance([0, 1], tokens, [1, 1]), plain.advance([0, 1], tokens, [1, 1]), rtol=1e-4
        )
    assert not recorded[0].captured


class Reads(TorchDispatchMode):
    """What of a step the host would wait for, and the shape of each result."""

    def __init__(self):
        super().__init__()
        self.reads, self.shapes = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        self.reads += function is torch.ops.aten.nonzero.default
        found = function(*args, **(kwargs or {}))
        self.shapes.append((str(function), [tuple(x.shape) for x in tree_leaves(found)]))
        return found


@pytest.mark.parametrize("sampled", [False, True])
def test_a_step_has_one_graph_whatever_the_position_and_reads_nothing(sampled):
    """The same operations on the same shapes at each position, and no number for the host."""
    model = make_model(KINDS["rope"])
    decoder = model.make_device_row_decoder(2, CAPACITY)
    kind = None
    if sampled:
        kind = static_rows.find_kind([TokenChoice(0.8, 5, 0.9, 0.1)], V)
    graphs = []
    with torch.inference_mode():
        for row in range(2):
            decoder.open_row(row, CAPACITY)
        for position in range(20):
            decoder.advance([0, 1], np.full((2, 1), position), [1, 1])
            with Reads() as seen:
                decoder.compute_step({None: CAPACITY}, CAPACITY, kind)
            assert seen.reads == 0
            graphs.append(seen.shapes)
    assert all(one == graphs[0] for one in graphs)


def test_a_step_is_queued_before_the_token_before_it_is_read(monkeypatch):
    model = make_model(KINDS["rope"])
    decoder, told = model.make_device_decoder(1, CAPACITY), []
    step, later = StaticRowDecoder.run_step, static_decoder.read_later

    def read_later(chosen):
        read = later(chosen)
        return lambda: told.append("read") or read()

    monkeypatch.setattr(static_decoder, "read_later", read_later)
    monkeypatch.setattr(
        StaticRowDecoder, "run_step", lambda self, *args: told.append("step") or step(self, *args)
    )
    tokens = list(decoder.write_ahead(1, TokenChoice(), iter([0.5] * 4), 4, V))
    assert told == ["step", "step", "read", "step", "read", "step", "read", "read"]
    assert len(tokens) == 4


def test_what_cannot_be_captured_is_said_and_computed(monkeypatch):
    model = make_model(KINDS["rope"])
    plain, static = model.decoder(1, CAPACITY), model.make_device_decoder(1, CAPACITY)
    graphs = static._decoder._graphs

    def fail(step):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "_make_graph", fail)
    graphs._captures = True
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for token in range(12):
            expected, got = (one.advance(np.array([[token]])) for one in (plain, static))
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    (message,) = [str(one.message) for one in told if one.category is UserWarning]
    assert message.endswith("slower: operation not permitted when stream is capturing")


def test_memory_that_ran_out_is_not_called_a_failed_capture(monkeypatch):
    static = make_model(KINDS["rope"]).make_device_decoder(1, CAPACITY)
    graphs = static._decoder._graphs

    def fail(step):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(graphs, "_make_graph", fail)
    graphs._captures = True
    for token in range(step_graphs.EAGER_STEPS):
        static.advance(np.array([[token]]))
    with pytest.raises(torch.OutOfMemoryError):
        static.advance(np.array([[1]]))


def test_too_many_tokens_are_refused():
    static = make_model(KINDS["rope"]).make_device_decoder(2, 4)
    static.advance(np.zeros((2, 4), int))
    with pytest.raises(HermesError, match="cannot hold 5"):
        static.advance(np.zeros((2, 1), int))
    with pytest.raises(HermesError, match="of 2 rows cannot read 1"):
        make_model(KINDS["rope"]).make_device_decoder(2, 4).advance(np.zeros((1, 1), int))
