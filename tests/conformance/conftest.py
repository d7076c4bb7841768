"""The sides that the laws are tried on."""

from functools import cache

import pytest

from hermes.seam import find_backend
from hermes_conformance.law import Sides
from hermes_conformance.side import Side


@cache
def side(name):
    return Side(find_backend(name), "cpu")


@pytest.fixture
def sides():
    """Sides by name: sides("mlx") against the oracle, sides("mlx", "torch") against another."""

    def make(subject, reference="numpy"):
        return Sides(side(subject), side(reference), side("numpy"))

    return make
