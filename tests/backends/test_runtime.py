"""Options that a backend cannot meet are declined in one sentence."""

import pytest

from hermes.errors import Unsupported
from hermes.interface import Options, find_backend
from tests.backends.support import (
    TRAINING_BACKENDS,
    make_learner,
    make_spec,
    make_weights,
)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_a_device_that_is_not_there_is_declined_in_one_sentence(backend):
    with pytest.raises(Unsupported, match=rf"^hermes_{backend} has no device 'tpu' here; it has "):
        make_learner(backend, make_spec(), None, Options(device="tpu"))


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("torch", "hermes_torch computes in tf32 on CUDA's devices that do, not on 'cpu'"),
        (
            "mlx",
            "hermes_mlx computes in tf32 on 'gpu' only, where MLX_ENABLE_TF32 was not 0 at the "
            "start",
        ),
    ],
)
@pytest.mark.parametrize("switch", ["0", "1", None])
def test_tf32_is_declined_on_a_cpu(monkeypatch, backend, message, switch):
    """However MLX's own switch stands, which GPUs alone have anything to do with."""
    if switch is None:
        monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    else:
        monkeypatch.setenv("MLX_ENABLE_TF32", switch)
    options = Options(device="cpu", precision="tf32")
    with pytest.raises(Unsupported) as error:
        find_backend(backend).build(make_spec(), make_weights(make_spec()), options)
    assert str(error.value) == message
