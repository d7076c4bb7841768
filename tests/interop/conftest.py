"""Fixtures of the tests of interop."""

import time

import pytest

from hermes.interop.convert import convert
from hermes.interop.hub_client import require_hub
from tests.interop.hub_server import TOKEN, serving
from tests.interop.models import LLAMA, bare


@pytest.fixture
def checkpoint(tmp_path):
    """A hermes folder of the small Llama."""
    convert(**bare(tmp_path / "bare", LLAMA), target=tmp_path / "checkpoint", to="hermes")
    return tmp_path / "checkpoint"


@pytest.fixture
def hub(monkeypatch):
    """A server that stands in for the Hub, with its token and without waiting between attempts."""
    monkeypatch.setattr(require_hub().constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as server:
        yield server
