"""All ranks or none: what one rank refuses, every rank refuses."""

from collections.abc import Callable
from typing import TypeVar

from hermes.distributed.process_group import ProcessGroup
from hermes.errors import HermesError, Interrupted, NonFinite, PeerLost, StorageError

__all__ = ["all_or_none"]


KINDS = {kind.exit_code: kind for kind in (NonFinite, StorageError, Interrupted, PeerLost)}


T = TypeVar("T")


def all_or_none(
    process_group: ProcessGroup,
    make: Callable[[], T],
    undo: Callable[[T], object] = lambda made: None,
) -> T:
    """Call `make` on every rank; its result, once it succeeded on all of them.

    If it raises HermesError on any rank, `undo` is called with the results of the others and all
    ranks raise: a rank with an error its own, the others that of the first such rank. `make` may
    use collectives itself: an error that all ranks know of already is not exchanged again.
    """
    if process_group.rank_info.world_size == 1:
        return make()
    made: list[T] = []
    refused: HermesError | None = None
    try:
        made.append(make())
    except PeerLost:
        raise
    except HermesError as error:
        if error.reported_by is not None:
            raise
        refused = error
    said = process_group.all_gather_text(f"{refused.exit_code} {refused}" if refused else "")
    first = next((rank for rank, text in enumerate(said) if text), None)
    if first is None:
        return made[0]
    if refused is not None:
        raise refused.mark_shared(first)
    undo(made[0])
    code, _, sentence = said[first].partition(" ")
    raise KINDS.get(int(code), HermesError)(f"rank {first}: {sentence}").mark_shared(first)
