"""A server whose KV cache does not fit in memory ends before it answers anyone, in one sentence."""

import dataclasses
import subprocess

import pytest

from tests.cli.support import HERMES
from tests.finetuning.support import small_checkpoint, small_spec
from tests.waiting import PATIENCE

CACHE = "Error: the KV cache of 64 rows of 200,000 tokens needs 6.55 GB of memory, and "
SAID = {"torch": "can't allocate memory: you tried to allocate", "mlx": "(MLX needs 1"}


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_server_whose_cache_is_beyond_a_limit_does_not_begin(tmp_path, backend, force):
    """Torch began, and answered each request with 503."""
    spec = dataclasses.replace(small_spec(), max_seq_len=200_000)
    checkpoint = small_checkpoint(tmp_path, spec=spec)
    words = [HERMES, "serve", "-c", checkpoint, "--backend", backend, "--device", "cpu"]
    words += ["--rows", 64, "--port", 0, *force]
    ran = subprocess.run(
        ["bash", "-c", 'ulimit -d 4000000; exec "$@"', "bash", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ran.returncode == 71, (ran.returncode, ran.stderr)
    told = ran.stderr.splitlines()[-1]
    if force:  # what the backend itself says then
        assert told.startswith("Error: out of memory while serving small (")
        assert SAID[backend] in told
    else:
        assert told.startswith(CACHE)
        assert "because of ulimit -d; " in told
    assert "choose fewer --rows or a shorter --context" in told
