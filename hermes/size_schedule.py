"""Sizes that change while a run trains: '0:8,1000:16' is 8 at first, and 16 after 1,000 steps.

Imports nothing but errors.
"""

from collections.abc import Sequence

from hermes.errors import HermesError

__all__ = ["find_size", "parse_size_schedule"]


def parse_size_schedule(name: str, text: str) -> tuple[tuple[int, int], ...]:
    """The changes of a schedule as (steps done before, size), in order. Raises HermesError."""
    changes = []
    for part in text.split(",") if text else ():
        step, colon, size = (piece.strip() for piece in part.partition(":"))
        whole = all(piece.isascii() and piece.isdigit() for piece in (step, size))
        if not colon or not whole or int(size) < 1:
            raise HermesError(
                f"{name} is {text!r}; it must be STEP:SIZE,STEP:SIZE..., such as 0:8,1000:16, with "
                f"sizes of at least 1; {part.strip()!r} is not"
            )
        changes.append((int(step), int(size)))
    steps = [step for step, _ in changes]
    if steps != sorted(set(steps)):
        raise HermesError(f"{name} is {text!r}; its steps must ascend, each once")
    return tuple(changes)


def find_size(changes: Sequence[tuple[int, int]], step: int, first: int) -> int:
    """The size in the step that follows `step` steps; first: before any change."""
    return next((size for start, size in reversed(changes) if start <= step), first)
