"""A request that has a row of an engine's cache, and steps of such rows that were begun."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.inference.request import Generation
from hermes.inference.sampler import Sampler

__all__ = ["BegunStep", "RunningText"]


class RunningText:
    """A request that has a row of the cache. read: how many of its tokens the cache has."""

    def __init__(self, index: int, generation: Generation, sampler: Sampler, tokens: list[int]):
        self.index, self.generation, self.sampler = index, generation, sampler
        self.tokens = tokens
        self.read = 0
        self.is_open = False

    @property
    def unread(self) -> int:
        """How many tokens are to be read before the next can be chosen."""
        return len(self.tokens) - self.read

    def has_room(self, capacity: int) -> bool:
        """Whether another token can follow the one that is being chosen, whatever that one is."""
        request = self.generation.request
        is_last = len(self.generation.choices) + 1 >= request.max_tokens
        return not is_last and len(self.tokens) < capacity


@dataclass(frozen=True)
class BegunStep:
    """A step that a device has been given. read: waits for the token of each row. (B,)"""

    rows: list[RunningText]
    read: Callable[[], NDArray[np.integer]]
