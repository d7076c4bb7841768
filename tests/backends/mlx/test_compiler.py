"""mx.compile that fails is done without; memory and interrupts are no failures of it."""

import warnings

import mlx.core as mx
import numpy as np
import pytest

from hermes.interface import Options
from tests.backends.support import FLOAT32, make_batch, make_learner, make_spec

FAILED = "[Compile::eval_cpu] Failed to compile function SigmoidA: Failed to execute command with "
COMPILED = Options(device="cpu", compile=True)


@pytest.fixture
def compiler(monkeypatch):
    """mx.compile, whose functions fail with an error."""

    def plant(error):
        def fail(*arguments):
            raise error

        monkeypatch.setattr(mx, "compile", lambda function: fail)

    return plant


def test_a_failure_leaves_the_gradients_of_the_plain_loss(compiler):
    loss, grads = make_learner("mlx", make_spec(), options=FLOAT32).grads(make_batch())
    compiler(RuntimeError(f'{FAILED}return code 1: "g++ -std=c++17", the output is: '))
    with pytest.warns(UserWarning, match=r"^mx\.compile failed, so the run continues without it"):
        found, same = make_learner("mlx", make_spec(), options=COMPILED).grads(make_batch())
    assert found == loss
    for name, grad in grads.items():
        np.testing.assert_array_equal(same[name], grad)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[malloc] Unable to allocate 8589934592 bytes.", RuntimeError),
        (f'{FAILED}return code 2: "g++ -std=c++17", the output is: ', KeyboardInterrupt),
        (f'{FAILED}return code 130: "g++ -std=c++17", the output is: ', KeyboardInterrupt),
    ],
)
def test_memory_and_interrupts_are_passed_on(compiler, text, kind):
    compiler(RuntimeError(text))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="mx.compile failed")
        with pytest.raises(kind):
            make_learner("mlx", make_spec(), options=COMPILED).grads(make_batch())
