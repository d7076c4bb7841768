"""What the tests of conversion begin with."""

import pytest

from hermes.interop.convert import convert
from tests.interop.models import LLAMA, bare


@pytest.fixture
def checkpoint(tmp_path):
    """A hermes folder of the small Llama."""
    convert(**bare(tmp_path / "bare", LLAMA), target=tmp_path / "checkpoint", to="hermes")
    return tmp_path / "checkpoint"
