"""Token ids as text, in stretches that are trained on and stretches that are not."""

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["split_trained"]


def split_trained(
    tokenizer: "Tokenizer", ids: Iterable[int], loss_mask: Iterable[bool]
) -> list[tuple[str, bool]]:
    """Decode ids in stretches, each with whether it is trained on. ids, loss_mask: (N,)

    Special tokens are shown by their names.
    """
    pairs = zip(map(int, ids), map(bool, loss_mask), strict=True)
    return [
        (tokenizer.decode([token for token, _ in stretch], skip_special=False), trained)
        for trained, stretch in groupby(pairs, key=lambda pair: pair[1])
    ]
