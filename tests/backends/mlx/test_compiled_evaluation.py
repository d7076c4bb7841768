"""An evaluation is compiled as training is: one trace for each length, with the same numbers."""

import numpy as np
import pytest

from hermes_mlx import compiled_evaluation
from tests.backends import counting
from tests.backends.torch.test_compiled_evaluation import make_batches, make_pairs


@pytest.fixture
def traces(monkeypatch):
    """Shapes that an evaluation is traced for, by a compiler that builds no kernels."""
    made = []

    def compile_by_shape(function, *, ends_on_interrupt):
        seen = set()

        def run(params, tokens, *rest):
            shape = tuple(tokens.shape), len(rest), tuple(one is None for one in rest)
            if shape not in seen:
                seen.add(shape)
                made.append(tokens.shape)
            return function(params, tokens, *rest)

        return run

    monkeypatch.setattr(compiled_evaluation, "compile_function", compile_by_shape)
    monkeypatch.setattr(compiled_evaluation, "uses_compile", lambda runtime: True)
    return made


def test_evaluations_are_one_trace_a_length_and_have_the_same_numbers(traces, monkeypatch):
    compiled = counting.make_learner("mlx")
    monkeypatch.setattr(compiled_evaluation, "uses_compile", lambda runtime: False)
    plain = counting.make_learner("mlx")
    assert compiled._evaluation.is_on
    assert not plain._evaluation.is_on
    seen = {}
    for name, batch in make_batches().items():
        expected = plain.loss(batch)
        for _ in range(2):
            assert compiled.loss(batch) == pytest.approx(expected, rel=1e-6), name
        seen[name] = len(traces)
    assert seen == {"whole": 1, "less": 1, "half": 2, "weighted": 3, "packed": 4}


def test_pairs_are_one_trace_a_shape_and_have_the_same_numbers(traces, monkeypatch):
    compiled = counting.make_learner("mlx")
    monkeypatch.setattr(compiled_evaluation, "uses_compile", lambda runtime: False)
    plain, seen = counting.make_learner("mlx"), {}
    for name, rows in make_pairs().items():
        for _ in range(2):
            np.testing.assert_allclose(
                compiled.row_logprobs(*rows), plain.row_logprobs(*rows), rtol=1e-5
            )
        seen[name] = len(traces)
    assert seen == {"whole": 1, "prompts": 1, "half": 2, "one pair": 3}


def test_weights_of_now_are_evaluated_and_not_those_of_the_trace(monkeypatch):
    """By MLX's own compiler, which keeps what was no argument as it was."""
    monkeypatch.setattr(compiled_evaluation, "uses_compile", lambda runtime: True)
    learner = counting.make_learner("mlx")
    monkeypatch.setattr(compiled_evaluation, "uses_compile", lambda runtime: False)
    plain, batch = counting.make_learner("mlx"), counting.make_batch(A=1)
    losses = []
    for _ in range(2):
        losses.append(learner.loss(batch))
        assert losses[-1] == pytest.approx(plain.loss(batch), rel=1e-6)
        for one in (learner, plain):
            one.step(batch, 1e-2)
    assert losses[0] != losses[1]
