"""Records that count in the loss: those of weight 0 are left out of training."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from hermes.errors import DataError

__all__ = ["select_weighted"]


class Weighted(Protocol):
    """A record with its weight in the loss, and where it stands."""

    @property
    def weight(self) -> float:
        """Of the record in the loss."""
        ...

    @property
    def where(self) -> str:
        """Its file and line."""
        ...


R = TypeVar("R", bound=Weighted)


def select_weighted(records: Sequence[R]) -> list[R]:
    """The records whose weight is not 0. Raises DataError where all of several have that."""
    found = [one for one in records if one.weight]
    if records and not found:
        raise DataError(f"all records have weight 0, such as {records[0].where}")
    return found
