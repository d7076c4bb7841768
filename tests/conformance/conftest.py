"""The sides that the laws are tried on."""

from functools import cache

import pytest

from hermes_conformance.suite.selection import sides_of


@cache
def made(subject, reference):
    return sides_of(subject, reference, "cpu")


@pytest.fixture
def sides():
    """Sides by name: sides("mlx") against the oracle, sides("mlx", "torch") against another."""

    def make(subject, reference="numpy"):
        found = made(subject, reference)
        found.subject.forget()
        return found

    return make
