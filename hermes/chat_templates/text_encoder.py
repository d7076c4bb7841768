"""Rendered text as tokens, and the token that ends a turn of the assistant."""

import re
from collections.abc import Sequence
from functools import cached_property

from hermes.chat_templates.dialogue import Dialogue
from hermes.chat_templates.guard import GuardedMessages, guard_messages
from hermes.chat_templates.template import Template
from hermes.errors import DataError
from hermes.tokenizer import Tokenizer

__all__ = ["Piece", "TextEncoder"]

Piece = tuple[str, float | None]
"""A part of a rendered text, and its weight in the loss if it is a turn of the assistant."""

# Text that ends with what looks like a special token's name: <|eot_id|>, </s>, [END].
NAME_AT_END = re.compile(r"(<[^<>\s]+>|\[[^\[\]\s]+\])\s*\Z")
NO_NAMES = re.compile(r"(?!)")


class TextEncoder:
    """Encodes what a template rendered. message_ids: special tokens that messages may contain."""

    def __init__(self, tokenizer: Tokenizer, template: Template, message_ids: frozenset[int]):
        self.tokenizer, self.template = tokenizer, template
        self._message_ids = message_ids
        # What the vocabulary lacks becomes <unk>, which no template writes.
        self._template_ids = tokenizer.special_ids - message_ids - {tokenizer.unk_id}

    def encode_pieces(
        self, guarded: GuardedMessages, pieces: Sequence[Piece]
    ) -> tuple[list[int], list[float | None]]:
        """Tokenize pieces. -> ids, and the weight of each where it is the assistant's, else None"""
        ids: list[int] = []
        weights: list[float | None] = []
        open_turn, last = "", None  # a turn whose end is the token that opens the next one
        for text, weight in pieces:
            tokens, written = self.tokenize(guarded, text, ids[-1] if ids else None)
            own: list[float | None] = [None] * len(tokens)
            if open_turn and tokens:
                if not written[0]:
                    raise DataError(self._explain_endless(open_turn))
                own[0], open_turn = last, ""
            if weight is not None:
                end = self._find_end(tokens, written)
                own = [weight if end is None or i <= end else None for i in range(len(tokens))]
                if end is None:
                    open_turn, last = self._check_open(text), weight
            ids += tokens
            weights += own
        if open_turn:
            if self.opening_token is None:
                raise DataError(self._explain_endless(open_turn))
            ids.append(self.opening_token)
            weights.append(last)
        return ids, weights

    def is_ended(self, guarded: GuardedMessages, text: str) -> bool:
        """Whether a special token ends the text of a turn."""
        return self._find_end(*self.tokenize(guarded, text)) is not None

    def _find_end(self, tokens: Sequence[int], written: Sequence[bool]) -> int | None:
        """Find the special token that ends a turn, which only white space may follow."""
        ends = [i for i, by_template in enumerate(written) if by_template]
        if not ends:
            return None
        # A vocabulary may lack the newline that follows a turn, which is <unk> then.
        behind = [token for token in tokens[ends[-1] + 1 :] if token != self.tokenizer.unk_id]
        return None if self.tokenizer.decode(behind, skip_special=False).strip() else ends[-1]

    @cached_property
    def opening_token(self) -> int | None:
        """The special token that opens the user's turn just after the assistant's, if one does.

        GLM's templates end no turn: generation stops at the token of the next role.
        """
        ask, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}
        guarded = guard_messages((ask, answer, ask), NO_NAMES)
        dialogue = Dialogue(self.template, guarded.turns, None)
        try:
            span = dialogue.find_turn(1, 3)
            following = dialogue.render(3, prompt=False)[span[1] :] if span else ""
        except DataError:
            return None
        tokens, written = self.tokenize(guarded, following)
        return tokens[0] if tokens and written[0] else None

    def _check_open(self, text: str) -> str:
        """The text of a turn that no special token ends. Raises DataError if it seems to have one.

        A name that the template writes there is a token that this tokenizer lacks.
        """
        if self._find_name_at_end(text):
            raise DataError(self._explain_endless(text))
        return text

    def _find_name_at_end(self, text: str) -> str:
        found = NAME_AT_END.search(text)
        name = found[1] if found else ""
        is_own = name in self.template.source or name in self.template.names.values()
        return name if is_own else ""

    def _explain_endless(self, text: str) -> str:
        """Explain that no special token ends a turn, and how to mend it."""
        begin = f"{self.template.where} ends the assistant's turn with"
        name = self._find_name_at_end(text)
        if not name:
            return (
                f"{begin} no special token, so a model could not learn to stop; write one after "
                "the content, such as eos_token"
            )
        if self.tokenizer.find_special_id(name) in self._message_ids:
            return (
                f"{begin} {name!r}, which --message-token lets messages write, so that nothing "
                "tells where a turn ends; leave it out there, and out of the messages"
            )
        end = self.tokenizer.eos_id
        own = "" if end is None else f", such as {self.tokenizer.get_token_bytes(end).decode()!r}"
        return (
            f"{begin} {name!r}, which is not a special token of this tokenizer, so a model could "
            f"not learn to stop; write one that it has{own}, or train a tokenizer with "
            f"--special-token {name!r}"
        )

    def tokenize(
        self, guarded: GuardedMessages, text: str, before: int | None = None
    ) -> tuple[list[int], list[bool]]:
        """Tokenize rendered text. -> ids, and for each whether it is a token of the template's own

        Names of special tokens in messages are text, unless messages may write them. before: the
        token that precedes the text, None at the beginning.
        """
        parts = guarded.split(text)
        names = [is_name for _, is_name in parts]
        encoded = self.tokenizer.encode_parts(
            [part for part, _ in parts], [not is_name for is_name in names], before
        )
        written = [
            not is_name and token in self._template_ids
            for tokens, is_name in zip(encoded, names, strict=True)
            for token in tokens
        ]
        return [token for tokens in encoded for token in tokens], written
