"""An evaluation is compiled as training is: one graph for each length, with the same numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hermes.interface import IGNORE, Options, find_backend
from hermes.numerics.params import init_weights
from hermes_torch import compiled_evaluation
from tests.backends import counting


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that evaluations compile, run as they are."""
    made = []

    def look(graph, example):
        made.append(graph)
        return graph.forward

    def compile_whole(function):
        return torch.compile(function, dynamic=False, fullgraph=True, backend=look)

    monkeypatch.setattr(compiled_evaluation, "compile_function", compile_whole)
    torch.compiler.reset()
    yield made
    torch.compiler.reset()


def make_batches():
    """A whole micro-batch, one with a row too few, one of half the length, weights, documents."""
    batch = counting.make_batch(A=1)
    targets = batch.targets.copy()
    targets[:, :, 5:9] = IGNORE
    whole = replace(batch, targets=targets)
    less = replace(
        whole, tokens=whole.tokens[:, :1], targets=targets[:, :1], rows=whole.rows[:, :1]
    )
    half = replace(whole, tokens=whole.tokens[..., :32], targets=targets[..., :32])
    weighted = replace(whole, weights=np.full(targets.shape, 0.5, np.float32))
    packed = replace(whole, segments=np.sort(targets % 3, axis=-1).astype(np.int32))
    return {"whole": whole, "less": less, "half": half, "weighted": weighted, "packed": packed}


def make_pairs():
    """Tokens and targets of pairs of several shapes and prompts: (2 P, T) each."""
    batch = counting.make_batch(A=2)
    tokens, targets = (x.reshape(4, -1) for x in (batch.tokens, batch.targets))
    prompt = targets.copy()
    prompt[:, :20] = IGNORE
    return {
        "whole": (tokens, targets),
        "prompts": (tokens, prompt),
        "half": (tokens[:, :32], prompt[:, :32]),
        "one pair": (tokens[1:3], prompt[1:3]),
    }


def test_evaluations_are_one_graph_a_length_and_have_the_same_numbers(graphs):
    plain = counting.make_learner("torch")
    compiled = counting.make_learner("torch", Options(device="cpu", compile=False))
    compiled.runtime.options = Options(device="cpu", compile=True)
    compiled._evaluation = compiled_evaluation.CompiledEvaluation(compiled.runtime)
    seen = {}
    for name, batch in make_batches().items():
        expected = plain.loss(batch)
        assert compiled.loss(batch) == pytest.approx(expected, rel=1e-6), name
        seen[name] = len(graphs)
        assert compiled.loss(batch) == pytest.approx(expected, rel=1e-6), name
        assert len(graphs) == seen[name]  # the second time nothing is compiled
    assert seen == {"whole": 1, "less": 1, "half": 2, "weighted": 3, "packed": 4}


def test_pairs_are_one_graph_a_shape_and_have_the_same_numbers(graphs):
    plain, compiled = counting.make_learner("torch"), counting.make_learner("torch")
    compiled.runtime.options = Options(device="cpu", compile=True)
    compiled._evaluation = compiled_evaluation.CompiledEvaluation(compiled.runtime)
    seen = {}
    for name, rows in make_pairs().items():
        for _ in range(2):
            np.testing.assert_allclose(
                compiled.row_logprobs(*rows), plain.row_logprobs(*rows), rtol=1e-6
            )
        seen[name] = len(graphs)
    assert seen == {"whole": 1, "prompts": 1, "half": 2, "one pair": 3}


def test_an_update_between_two_evaluations_is_in_the_second(graphs):
    learner = counting.make_learner("torch")
    learner.runtime.options = Options(device="cpu", compile=True)
    learner._evaluation = compiled_evaluation.CompiledEvaluation(learner.runtime)
    batch = counting.make_batch()
    before = learner.loss(batch)
    learner.step(batch, 1e-2)
    after = learner.loss(batch)
    learner._evaluation = compiled_evaluation.CompiledEvaluation(learner.runtime)
    assert after != before
    assert learner.loss(batch) == after
    assert len(graphs) == 1


def test_a_compiler_that_fails_is_told_of_once_and_the_evaluation_goes_on(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiled_evaluation, "compile_function", lambda function: fail)
    learner = counting.make_learner("torch")
    expected = learner.loss(counting.make_batch())
    learner.runtime.options = Options(device="cpu", compile=True)
    learner._evaluation = compiled_evaluation.CompiledEvaluation(learner.runtime)
    with pytest.warns(UserWarning, match="the run continues without it: no compiler here") as told:
        assert learner.loss(counting.make_batch()) == expected
    assert learner.loss(counting.make_batch()) == expected
    assert len([one for one in told if one.category is UserWarning]) == 1


def test_packed_matrices_are_not_compiled():
    spec = counting.make_spec()
    options = Options(device="cpu", compile=True)
    model = find_backend("torch").build(spec, init_weights(spec, 0), options)
    assert model._evaluation.is_on != model.runtime.is_packed
