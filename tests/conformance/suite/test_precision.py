"""Runs whose float32 might not be float32 are refused."""

import pytest

from hermes.errors import HermesError
from hermes_conformance.suite.precision import require_float32


def test_an_environment_that_shortens_products_is_refused(monkeypatch, backends):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(HermesError, match="NVIDIA_TF32_OVERRIDE=1"):
        require_float32(backends("torch"))
