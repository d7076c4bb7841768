"""Tokens that a device chooses are those that the host chooses, and a text is the same."""

import numpy as np
import pytest

from hermes.errors import NonFinite
from hermes.inference.batch_generation import run_requests
from hermes.inference.decoding import generate_tokens
from hermes.inference.engine import Engine
from hermes.inference.filters import choose
from hermes.inference.request import Request
from hermes.inference.sampling import GREEDY, Sampling
from hermes.interface import ChoosesTokens, DecodesOnDevice, TokenChoice, WritesAhead, find_backend
from tests.backends.support import FLOAT32, TRAINING_BACKENDS, make_spec, make_weights

V = 37
SAMPLINGS = [
    GREEDY,
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=1),
    Sampling(temperature=0.7, top_k=9),
    Sampling(temperature=2.0, top_k=V + 5),
    Sampling(temperature=1.3, top_p=0.4),
    Sampling(temperature=1.3, top_p=1e-6),
    Sampling(temperature=0.9, min_p=0.2),
    Sampling(temperature=1.5, top_k=20, top_p=0.8, min_p=0.05),
    Sampling(temperature=1e-300),
]


class OnDevice:
    """A model whose decoders are those that a GPU would have."""

    def __init__(self, model):
        self.model, self.spec = model, model.spec
        self.decoder, self.row_decoder = model.make_device_decoder, model.make_device_row_decoder


@pytest.fixture(params=TRAINING_BACKENDS)
def model(request):
    pytest.importorskip(request.param)
    spec = make_spec()
    return find_backend(request.param).build(spec, make_weights(spec), FLOAT32)


def describe(s):
    return TokenChoice(s.temperature, s.top_k, s.top_p, s.min_p)


def choose_on_device(model, logits, samplings, uniforms, size=None):
    """The backend's own choice from logits."""
    if type(model).__module__.startswith("hermes_torch"):
        import torch

        from hermes_torch.token_choice import choose_tokens, find_kind, list_settings

        choices = [describe(one) for one in samplings]
        settings = torch.from_numpy(list_settings(choices, uniforms))
        kind = find_kind(choices, size or logits.shape[1])
        return choose_tokens(torch.from_numpy(logits), settings, kind).tolist()
    import mlx.core as mx

    from hermes_mlx.token_choice import choose_tokens

    found = []
    for dtype in (mx.float64, mx.float32):  # of a CPU, and of a GPU
        with mx.stream(mx.cpu):
            choices = [describe(one) for one in samplings]
            ids = choose_tokens(mx.array(logits), choices, uniforms, size or logits.shape[1], dtype)
            found.append(ids.tolist())
    assert found[0] == found[1]
    return found[0]


def test_models_have_decoders_of_a_device(model):
    assert isinstance(model, DecodesOnDevice)
    assert isinstance(model.make_device_decoder(1, 4), WritesAhead)
    assert isinstance(model.make_device_row_decoder(1, 4), ChoosesTokens)
    # On a CPU the host chooses: what crosses is in its memory anyway.
    assert not isinstance(model.decoder(1, 4), WritesAhead)
    assert not isinstance(model.row_decoder(1, 4), ChoosesTokens)


@pytest.mark.parametrize("size", [40, 3000])
def test_choices_are_the_hosts(model, size):
    """Each row by a setting of its own, with logits that are equal in groups and some of -inf."""
    random = np.random.default_rng(0)
    for _ in range(6):
        logits = random.normal(0, 2, (len(SAMPLINGS), size)).astype(np.float32)
        logits[:, : size // 2] = np.round(logits[:, : size // 2])
        logits[:, 5] = -np.inf
        uniforms = random.random(len(SAMPLINGS)).tolist()
        expected = [
            choose(row, one, u) for row, one, u in zip(logits, SAMPLINGS, uniforms, strict=True)
        ]
        assert choose_on_device(model, logits, SAMPLINGS, uniforms) == expected
        # Rows that all have one setting take other ways through the code.
        for one in SAMPLINGS:
            alone = choose_on_device(model, logits[:2], [one] * 2, uniforms[:2])
            assert alone == [choose(logits[b], one, uniforms[b]) for b in range(2)]


def test_the_ends_of_the_distribution(model):
    logits = np.array([[-np.inf, 0.0, 1.0, -np.inf]] * 2, np.float32)
    ones = [Sampling(temperature=1.0)] * 2
    assert choose_on_device(model, logits, ones, [0.0, float(np.nextafter(1, 0))]) == [1, 2]
    assert choose_on_device(model, logits, ones, [0.99, 0.99], size=2) == [1, 1]


def test_what_is_not_a_number_is_said(model):
    logits = np.zeros((4, 8), np.float32)
    logits[0, 3], logits[1, 3], logits[2] = np.nan, np.inf, -np.inf
    for one in (GREEDY, Sampling(temperature=1.0, top_k=3, top_p=0.9)):
        found = choose_on_device(model, logits, [one] * 4, [0.5] * 4)
        assert found[:3] == [-1] * 3
        assert found[3] >= 0


@pytest.mark.parametrize("sampling", [SAMPLINGS[0], SAMPLINGS[1], SAMPLINGS[8]])
def test_a_text_is_the_same(model, sampling):
    """Also where the context is full, of fewer ids, and where a token ends it."""
    prompt = [1, 2, 3]

    def write(one, **more):
        tokens = generate_tokens(
            one, prompt, max_tokens=45, sampling=sampling, seed=3, context_overflow="slide", **more
        )
        return list(tokens)

    whole = write(model)
    assert len(whole) == 45
    assert write(OnDevice(model)) == whole
    assert write(OnDevice(model), vocab_size=20) == write(model, vocab_size=20)
    stop = whole[20]
    assert write(OnDevice(model), stop=[stop]) == whole[: whole.index(stop)]


def test_texts_of_an_engine_are_the_same(model):
    """Together, with rows that the device serves beside ones that only the host can."""
    requests = [
        Request((1, 2, 3 + n), 12, one, seed=n)
        for n, one in enumerate([*SAMPLINGS[:9], Sampling(repetition_penalty=1.3)])
    ]

    def write(one, asked):
        done = run_requests(Engine(one, rows=4, prefill_chunk=2), asked)
        return [(text.tokens, text.finish_reason) for text in done]

    expected = write(model, requests)
    assert write(OnDevice(model), requests) == expected
    assert write(OnDevice(model), requests[:9]) == expected[:9]


def test_weights_that_are_not_numbers_end_a_text(model):
    spec = make_spec()
    damaged = {n: w * np.float32(np.nan) for n, w in make_weights(spec).items()}
    name = type(model).__module__.split(".")[0].removeprefix("hermes_")
    broken = OnDevice(find_backend(name).build(spec, damaged, FLOAT32))
    with pytest.raises(NonFinite, match="not numbers"):
        list(generate_tokens(broken, [1], max_tokens=3, sampling=GREEDY))
    (text,) = run_requests(Engine(broken, rows=2), [Request((1, 2), 4, GREEDY)])
    assert text.finish_reason == "error"


def test_mlx_begins_a_step_before_it_reads_the_last(monkeypatch):
    pytest.importorskip("mlx")
    import mlx.core as mx

    from hermes_mlx import inference

    spec = make_spec()
    decoder = (
        find_backend("mlx").build(spec, make_weights(spec), FLOAT32).make_device_decoder(1, 20)
    )
    queued, evaluate = [], mx.async_eval
    monkeypatch.setattr(
        inference.mx, "async_eval", lambda *arrays: queued.append(1) or evaluate(*arrays)
    )
    tokens = decoder.write_ahead(1, TokenChoice(), iter([0.5] * 9), 5, V)
    counts = [len(queued) for _ in tokens]
    assert counts == [2, 3, 4, 5, 5]
