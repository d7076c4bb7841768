"""A checkpoint is of its step, to the byte, though training goes on while it is written."""

import hashlib
import threading

import pytest

from hermes.checkpoint import Disk, Progress, Saver
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import OptimizerRecipe, Recipe
from tests.backends import counting
from tests.waiting import PATIENCE


def make_progress(recipe, step=1):
    return Progress(run="1", step=step, recipe=recipe, tokens=1, epoch=0, sample=0, total_steps=9)


def hash_files(folder):
    """Of every file but the record of where its run was."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.suffix == ".safetensors"
    }


@pytest.mark.parametrize("moments", ["float32", "float8"])
@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_a_slow_write_has_the_bytes_of_its_step(tmp_path, name, moments):
    spec, batch = counting.make_spec(), counting.make_batch(A=1)
    recipe = Recipe(optimizer=OptimizerRecipe(moments=moments), ema=0.9)
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    options = Options(device="cpu", compile=False)
    learner = find_backend(name).learner(spec, state, recipe, options)
    float(learner.step(batch, 1e-3).loss)
    with Saver(tmp_path / "plain", spec=spec) as plain:
        expected = plain.save(learner.state(), make_progress(recipe))
    reached, opened = threading.Event(), threading.Event()

    def wait(operation):
        reached.set()
        assert opened.wait(PATIENCE)

    with Saver(tmp_path / "slow", spec=spec, disk=Disk(wait)) as slow:
        path = slow.save(learner.state(), make_progress(recipe))
        assert reached.wait(PATIENCE)
        reports = [learner.step(batch, 1e-3) for _ in range(3)]
        float(reports[-1].loss)
        with learner.use_average():
            learner.loss(batch)
        assert not slow.check()  # still at it
        opened.set()
    assert hash_files(path) == hash_files(expected)
    with Saver(tmp_path / "later", spec=spec) as later:
        last = later.save(learner.state(), make_progress(recipe, step=4))
    assert hash_files(last) != hash_files(expected)
