"""mx.compile that fails is done without; memory and interrupts are no failures of it."""

import os
import shutil
import subprocess
import sys
import warnings

import mlx.core as mx
import numpy as np
import pytest

from hermes.interface import Options
from hermes_mlx.compiler import compile_function
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


# In the place of g++: as at a signal that the shell, by which MLX starts it, dies of first.
ENDS_ITS_SHELL = """#!/bin/sh
[ "$1" = --version ] && exec {compiler} "$@"
kill -s TERM $PPID
"""
COMPILE = """
import hermes_mlx, mlx.core as mx
from hermes_mlx.compiler import compile_function
mx.set_default_device(mx.cpu)
compile_function(lambda x: mx.exp(x) * x + 1)(mx.ones(3))
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for CPUs with g++")
def test_a_shell_that_a_signal_ends_is_an_interrupt(tmp_path):
    """MLX misses what the compiler did not write, and says nothing of a signal."""
    (tmp_path / "g++").write_text(ENDS_ITS_SHELL.format(compiler=shutil.which("g++")))
    (tmp_path / "g++").chmod(0o755)
    here = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=os.environ | here, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == "KeyboardInterrupt", done.stderr


def test_a_machine_without_a_compiler_is_told(monkeypatch):
    monkeypatch.setattr(mx, "compile", lambda function: lambda x: function(x))
    monkeypatch.setenv("PATH", "")
    run = compile_function(lambda x: 2 * x)
    message = r"^mx\.compile needs g\+\+ on a CPU, so the run continues without it$"
    with mx.stream(mx.cpu), pytest.warns(UserWarning, match=message):
        assert run(mx.ones(2)).tolist() == [2, 2]


INTERRUPTED = RuntimeError(f"{FAILED}return code 143: ")


@pytest.fixture
def later_compiler(monkeypatch):
    """mx.compile, whose functions fail from the second shape of their first argument on."""

    def compile_function(function):
        first = []

        def run(x):
            first.append(x.shape)
            if x.shape != first[0]:
                raise INTERRUPTED
            return function(x)

        return run

    monkeypatch.setattr(mx, "compile", compile_function)


@pytest.mark.filterwarnings("error:mx.compile failed")
def test_a_later_shape_whose_compiler_is_interrupted_is_computed_without_it(later_compiler):
    """A step is done by then, which is to be saved: no interrupt may throw it away."""
    double = compile_function(lambda x: 2 * x)
    with mx.stream(mx.cpu):
        assert double(mx.ones(3)).tolist() == [2, 2, 2]
        assert double(mx.ones(2)).tolist() == [2, 2]
        assert double(mx.ones(3)).tolist() == [2, 2, 2]


@pytest.mark.filterwarnings("error:mx.compile failed")
def test_an_evaluation_whose_compiler_is_interrupted_is_done_without_it(compiler):
    batch = make_batch()
    expected = make_learner("mlx", make_spec(), options=FLOAT32).loss(batch)
    compiler(INTERRUPTED)
    found = make_learner("mlx", make_spec(), options=COMPILED).loss(batch)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_shape_is_looked_at_once_and_weights_are_not(monkeypatch):
    evaluated = []
    monkeypatch.setattr(mx, "eval", lambda *trees: evaluated.append(trees))
    monkeypatch.setattr(mx, "compile", lambda function: lambda *arguments: function(*arguments))
    run = compile_function(lambda params, x, layout: x)
    one, two = mx.zeros((2, 3)), mx.zeros((2, 4))
    for x in (one, one, two, one, two):
        run({"w": x}, x, None)
    run({"w": one}, one, (one, (1, 2)))
    run({"w": one}, one, (one, (1, 3)))  # numbers are part of what MLX compiles
    assert len(evaluated) == 4
