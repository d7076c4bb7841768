"""Preference pairs as tokens: encoded by a chat template or as plain text, and made to fit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.example import Example
from hermes.chat_templates.messages import Conversation, Message
from hermes.data.preferences import PreferencePair
from hermes.errors import DataError
from hermes.formatting import format_count
from hermes.tokenizer import Tokenizer

__all__ = [
    "EncodedPair",
    "FittedPairs",
    "encode_pair",
    "encode_pairs",
    "encode_plain_pair",
    "fit_pairs",
]


@dataclass(frozen=True)
class EncodedPair:
    """Both completions, each after the same prompt, as tokens; loss masks cover the completions.

    weight: of the pair in the loss. shorten: makes the pair of at most so many tokens a side, from
    less of its prompt; None where not even the least of it has room.
    """

    chosen: Example
    rejected: Example
    weight: float = 1.0
    shorten: "Callable[[int], EncodedPair | None] | None" = field(default=None, compare=False)

    @property
    def longest(self) -> int:
        """The tokens of the longer side."""
        return max(len(self.chosen), len(self.rejected))


def encode_pair(pair: PreferencePair, encoder: ChatEncoder, *, counts: bool = True) -> EncodedPair:
    """Encode a pair by the chat template; targets are the assistant's tokens after the prompt.

    counts: whether the encoder counts fields that nothing reads.
    """
    chosen, rejected = map(encoder.encode, _make_conversations(pair, counts=counts))
    return _join_sides(pair, chosen, rejected, encoder)


def encode_pairs(pairs: Sequence[PreferencePair], encoder: ChatEncoder) -> Iterator[EncodedPair]:
    """Encode each pair as `encode_pair` does, while the next ones are rendered.

    Raises DataError.
    """
    conversations = (one for pair in pairs for one in _make_conversations(pair))
    sides = (side for (side,) in encoder.encode_many(conversations, several=False))
    for pair, chosen, rejected in zip(pairs, sides, sides, strict=True):
        yield _join_sides(pair, chosen, rejected, encoder)


def _make_conversations(
    pair: PreferencePair, *, counts: bool = True
) -> tuple[Conversation, Conversation]:
    context = len(pair.prompt)
    chosen, rejected = (*pair.prompt, *pair.chosen), (*pair.prompt, *pair.rejected)
    whole = Conversation(
        chosen,
        pair.where,
        tools=pair.tools,
        untrained=frozenset(range(context)),
        unread=pair.unread if counts else (),
        counted=0 if counts else len(chosen),
    )
    counted = context if counts else len(rejected)
    return whole, replace(whole, messages=rejected, unread=(), counted=counted)


def _join_sides(
    pair: PreferencePair, chosen: Example, rejected: Example, encoder: ChatEncoder
) -> EncodedPair:
    encoded = _require_different(EncodedPair(chosen, rejected, pair.weight))
    return replace(encoded, shorten=lambda max_len: shorten_pair(pair, encoder, max_len))


def shorten_pair(pair: PreferencePair, encoder: ChatEncoder, max_len: int) -> EncodedPair | None:
    """Encode a pair with less of its prompt, so that no side has more than `max_len` tokens.

    The system prompt stays, and what the template writes around messages. The oldest turns go
    first, whole, from one question to the next; then the beginning of what the last question says.
    """
    prompt = pair.prompt
    head = [m for m in prompt[:1] if m["role"] in ("system", "developer")]
    rest = prompt[len(head) :]
    starts = [i for i, message in enumerate(rest) if message["role"] == "user"] or [0]

    def encode(messages: Sequence[Message]) -> EncodedPair:
        return encode_pair(replace(pair, prompt=(*head, *messages)), encoder, counts=False)

    def keep_turns(count: int) -> EncodedPair:
        return encode(rest[starts[-count] :])

    def keep_characters(count: int) -> EncodedPair:
        last = rest[starts[-1]]
        return encode(({**last, "content": last["content"][-count:]}, *rest[starts[-1] + 1 :]))

    if found := _find_most(keep_turns, len(starts), max_len):
        return found
    last = rest[starts[-1]] if rest else {}
    return _find_most(keep_characters, len(last.get("content") or ""), max_len)


def _find_most(encode: Callable[[int], EncodedPair], most: int, max_len: int) -> EncodedPair | None:
    """Find by bisection the encoding of the most parts, up to `most`, that fits max_len."""
    found, low, high = None, 1, most
    while low <= high:
        middle = (low + high) // 2
        pair = encode(middle)
        if pair.longest <= max_len:
            found, low = pair, middle + 1
        else:
            high = middle - 1
    return found


def encode_plain_pair(pair: PreferencePair, tokenizer: Tokenizer) -> EncodedPair:
    """Encode a pair without a template: prompt, completion and end-of-text token."""
    if pair.texts is None:
        raise DataError(f"{pair.where}: messages need a chat template; leave --no-template out")
    if tokenizer.eos_id is None:
        raise DataError(
            "the tokenizer has no token that ends a text, such as '<|eos|>' or '</s>'; use one "
            "that has"
        )
    prompt = tokenizer.beginning + tokenizer.encode(pair.texts[0])
    if not prompt:
        prompt = [tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id]

    has_text = bool(pair.texts[0])

    def encode_side(text: str) -> Example:
        ids = [*prompt, *tokenizer.encode(text, continued=has_text), tokenizer.eos_id]
        return Example(np.array(ids, np.int32), np.arange(len(ids)) >= len(prompt), pair.where)

    sides = encode_side(pair.texts[1]), encode_side(pair.texts[2])
    encoded = _require_different(EncodedPair(*sides, pair.weight))
    fixed = 1 if prompt[0] == tokenizer.bos_id else 0
    return replace(encoded, shorten=lambda max_len: _cut_prompt(encoded, max_len, fixed))


def _require_different(pair: EncodedPair) -> EncodedPair:
    if np.array_equal(pair.chosen.ids, pair.rejected.ids):
        raise DataError(
            f"{pair.chosen.where}: chosen and rejected are equal as tokens, so nothing is preferred"
        )
    return pair


@dataclass(frozen=True)
class FittedPairs:
    """Pairs that fit. cut: how many lost the start of their prompt; dropped: how many are gone.

    numbers: of each pair among all.
    """

    pairs: tuple[EncodedPair, ...]
    cut: int
    dropped: int
    numbers: tuple[int, ...]


def fit_pairs(all_pairs: Iterable[EncodedPair], max_len: int, *, drop: bool = False) -> FittedPairs:
    """Fit pairs to max_len tokens by shortening the prompt, equally on both sides.

    A pair whose longer completion leaves no room for the prompt's system message and the least of
    its last question is refused, or with `drop` dropped. Raises DataError, also where no pair is
    left.
    """
    kept, cut, dropped = dict[int, EncodedPair](), 0, 0
    for number, pair in enumerate(all_pairs):
        if pair.longest <= max_len:
            kept[number] = replace(pair, shorten=None)
            continue
        shorter = pair.shorten(max_len) if pair.shorten else _cut_prompt(pair, max_len)
        if shorter is not None:
            kept[number] = shorter
            cut += 1
        elif drop:
            dropped += 1
        else:
            longest = _count_longest(pair)
            beside = " beside the system prompt, tools and roles, which stay"
            raise DataError(
                f"{pair.chosen.where}: a completion of {longest} tokens does not fit --max-len "
                f"{max_len}{beside if longest < max_len else ''}; choose a longer one, or "
                "--drop-overlong"
            )
    if not kept:
        lost = format_count(dropped, "pairs have", "pair has")
        raise DataError(f"no pair is left: {lost} completions that do not fit")
    return FittedPairs(tuple(kept.values()), cut, dropped, tuple(kept))


def _count_longest(pair: EncodedPair) -> int:
    """Count the tokens of the longer completion."""
    sides = (pair.chosen, pair.rejected)
    return max(len(side) - int(side.loss_mask.argmax()) for side in sides)


def _cut_prompt(pair: EncodedPair, max_len: int, fixed: int = 0) -> EncodedPair | None:
    """Cut tokens of the prompt after its first `fixed` ones; None where no more would be left."""
    begin = int(pair.chosen.loss_mask.argmax())
    count = begin + _count_longest(pair) - max_len
    if count >= begin - fixed:
        return None

    def cut(side: Example) -> Example:
        kept = [*range(fixed), *range(fixed + count, len(side))]
        return Example(side.ids[kept], side.loss_mask[kept], side.where)

    return EncodedPair(cut(pair.chosen), cut(pair.rejected), pair.weight)
