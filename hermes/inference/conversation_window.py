"""What of a conversation is read where the model's context has no room for all of it."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from hermes.chat_templates.messages import Message

__all__ = ["fit_conversation", "reserve_answer"]


def reserve_answer(longest: int, max_tokens: int | None) -> int:
    """How many of a context's tokens an answer gets at least: a quarter, or all it may have."""
    quarter = max(longest // 4, 1)
    return quarter if max_tokens is None else min(max_tokens, quarter)


def fit_conversation(
    encode: Callable[[list[Message]], list[int]], messages: Sequence[Message], room: int
) -> tuple[list[int], int]:
    """Encode a conversation without its oldest turns where the whole has no room. -> ids, dropped

    A turn begins with a message of the user's; what comes before the first, such as a system
    prompt, stays, and so does the last turn, which may still have more than `room` tokens. dropped:
    how many messages are left out. Raises what `encode` does.
    """
    whole = encode(list(messages))
    starts = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if len(whole) <= room or len(starts) < 2:
        return whole, 0
    head, found = messages[: starts[0]], dict[int, list[int]]()

    def fits(start: int) -> bool:
        found[start] = encode([*head, *messages[start:]])
        return len(found[start]) <= room

    later = starts[1:]
    first = later[min(bisect_left(later, True, key=fits), len(later) - 1)]
    if first not in found:
        fits(first)
    return found[first], first - starts[0]
