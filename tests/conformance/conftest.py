"""The backends that the laws are tried on."""

from functools import cache

import pytest

from hermes_conformance.suite.selection import load_backends


@cache
def load(subject, reference):
    return load_backends(subject, reference, "cpu")


@pytest.fixture
def backends():
    """backends("mlx") are mlx against the oracle, backends("mlx", "torch") against torch."""

    def get(subject, reference="numpy"):
        found = load(subject, reference)
        found.subject.forget()
        return found

    return get
