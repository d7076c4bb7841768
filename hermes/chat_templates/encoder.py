"""Encodes conversations as token ids with a loss mask over what the assistant says.

Which text is the assistant's follows from how it was rendered, never from searching for words in
it: either the template marks it with `{% generation %}`, or it is what the rendering gains when
the assistant's message is added. Text that spells the name of a special token stays text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.chat_templates.messages import Conversation, Message
from hermes.chat_templates.sandbox import CLOSE, OPEN
from hermes.chat_templates.template import Template, choose_template
from hermes.errors import DataError
from hermes.tokenizer import CHAT_TEMPLATE, Tokenizer

__all__ = ["ChatEncoder", "Example", "read_end_of_turn"]

# While a template runs, names of special tokens in messages are replaced by private-use characters
# from this one on, so that they can be told from special tokens that the template itself writes.
STAND_IN = 0xF0000
PRIVATE = re.compile("([\U000f0000-\U000fffff])")
FORBIDDEN = re.compile(f"[{OPEN}{CLOSE}\U000f0000-\U000fffff]")
# Text that ends with what looks like a special token's name: <|eot_id|>, </s>, [END].
NAME_AT_END = re.compile(r"(<[^<>\s]+>|\[[^\[\]\s]+\])\s*\Z")


@dataclass(frozen=True)
class Example:
    """A tokenized training example. ids: (N,). loss_mask: (N,), True for targets; never the first.

    where: its place in a file, for error messages.
    """

    ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    where: str

    def __len__(self) -> int:
        return len(self.ids)


class ChatEncoder:
    """Encodes conversations with one tokenizer and one template."""

    def __init__(self, tokenizer: Tokenizer, template: Template):
        self.tokenizer = tokenizer
        self.template = template
        special = [tokenizer.get_token_bytes(i).decode() for i in sorted(tokenizer.special_ids)]
        longest_first = sorted(special, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._stand_ins = {name: chr(STAND_IN + i) for i, name in enumerate(special)}
        self._names_by_stand_in = {character: name for name, character in self._stand_ins.items()}
        self._known_roles: set[str] = set()

    def encode(self, conversation: Conversation, *, first: int = 0, whole: bool = False) -> Example:
        """Encode a conversation, up to the last token in the loss mask.

        The loss mask covers the assistant's messages from number `first` on; with `whole`, all
        tokens. Plain text is covered whole and followed by an end-of-text token. Raises DataError,
        its message beginning with the conversation's place.
        """
        try:
            return self._encode(conversation, first, whole)
        except DataError as error:
            raise DataError(f"{conversation.where}: {error}") from None

    def _encode(self, conversation: Conversation, first: int, whole: bool) -> Example:
        where = conversation.where
        if conversation.text is not None:
            return self._encode_text(conversation.text, where)
        ids: list[int] = []
        mask: list[bool] = []
        for text, is_target in self._split_turns(conversation.messages, first, conversation.tools):
            tokens = self._tokenize(text, ids[-1] if ids else None)
            ids += tokens
            mask += self._mask_turn(tokens, text) if is_target else [False] * len(tokens)
        if not any(mask):
            raise DataError("the template gives the assistant's messages no token")
        loss_mask = np.array(mask) | whole
        loss_mask[0] = False  # the first token is predicted from nothing
        end = int(np.flatnonzero(loss_mask)[-1]) + 1
        return Example(np.array(ids[:end], np.int32), loss_mask[:end], where)

    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None
    ) -> list[int]:
        """Encode messages up to where the assistant answers, as in training. Raises DataError."""
        pieces = self._split_turns(messages, len(messages), tools, prompt=True)
        ids: list[int] = []
        for text, _ in pieces:
            ids += self._tokenize(text, ids[-1] if ids else None)
        return ids

    def find_end_of_turn(self) -> int:
        """Find the token that ends the assistant's turn. Raises DataError."""
        turn = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "a"})
        example = self._encode(Conversation(turn, self.template.where), 0, False)
        return int(example.ids[example.loss_mask][-1])

    def _encode_text(self, text: str, where: str) -> Example:
        if self.tokenizer.eos_id is None:
            raise DataError(
                "the tokenizer has no token that ends a text, such as '<|eos|>' or '</s>'"
            )
        begin = self.tokenizer.beginning
        ids = [*begin, *self.tokenizer.encode(text), self.tokenizer.eos_id]
        loss_mask = np.ones(len(ids), np.bool_)
        loss_mask[0] = False
        return Example(np.array(ids, np.int32), loss_mask, where)

    def _mask_turn(self, tokens: list[int], text: str) -> list[bool]:
        """Mask a turn up to the special token that ends it, and nothing that follows it."""
        special = self.tokenizer.special_ids
        ends = [i for i, token in enumerate(tokens) if token in special]
        if not ends:
            raise DataError(self._explain_endless(text))
        return [i <= ends[-1] for i in range(len(tokens))]

    def _explain_endless(self, text: str) -> str:
        """Explain that no special token ends a turn, and how to mend it."""
        begin = f"{self.template.where} ends the assistant's turn with"
        found = NAME_AT_END.search(text)
        name = found[1] if found else ""
        if not name or not (name in self.template.source or name in self.template.names.values()):
            return (
                f"{begin} no special token, so a model could not learn to stop; write one after "
                "the content, such as eos_token"
            )
        end = self.tokenizer.eos_id
        own = "" if end is None else f", such as {self.tokenizer.get_token_bytes(end).decode()!r}"
        return (
            f"{begin} {name!r}, which is not a special token of this tokenizer, so a model could "
            f"not learn to stop; write one that it has{own}, or train a tokenizer with "
            f"--special-token {name!r}"
        )

    def _tokenize(self, text: str, before: int | None) -> list[int]:
        """Tokenize rendered text; only special tokens that the template wrote become special.

        before: the token that precedes the text, None at the beginning.
        """
        parts = [part for part in PRIVATE.split(text) if part]
        names = [self._names_by_stand_in.get(part) for part in parts]
        texts = [name or part for name, part in zip(names, parts, strict=True)]
        encoded = self.tokenizer.encode_parts(texts, [name is None for name in names], before)
        return [token for ids in encoded for token in ids]

    def _split_turns(
        self,
        messages: Sequence[Message],
        first: int,
        tools: Sequence[Any] | None,
        *,
        prompt: bool = False,
    ) -> list[tuple[str, bool]]:
        """Render messages and cut the text at the assistant's turns. -> [(text, is target)]"""
        self._check_tools(messages, tools)
        guarded: list[Message] = [self._guard(dict(message)) for message in messages]
        whole = self.template.render(guarded, prompt=prompt, tools=tools)
        self._check_roles(guarded, whole, tools, prompt)
        answers = [i for i, message in enumerate(guarded) if message["role"] == "assistant"]
        if self.template.marks:
            return self._split_at_marks(whole, [i >= first for i in answers])
        pieces, done = [], 0
        for i in answers:
            begin = self._measure_prefix(whole, guarded[:i], i, tools, prompt=True)
            end = self._measure_prefix(whole, guarded[: i + 1], i + 1, tools, prompt=False)
            pieces += [(whole[done:begin], False), (whole[begin:end], i >= first)]
            done = end
        return [*pieces, (whole[done:], False)]

    def _measure_prefix(
        self,
        whole: str,
        messages: Sequence[Message],
        count: int,
        tools: Sequence[Any] | None,
        *,
        prompt: bool,
    ) -> int:
        """Measure the rendering of the first messages, which must be a prefix of the whole."""
        text = self.template.render(messages, prompt=prompt, tools=tools)
        if not whole.startswith(text):
            what = " and the generation prompt" if prompt else ""
            raise DataError(
                f"{self.template.where} renders the text up to message {count}{what} differently "
                "when more messages follow, so the assistant's part cannot be found; mark it with "
                "{% generation %} in the template"
            )
        return len(text)

    def _split_at_marks(self, whole: str, targets: Sequence[bool]) -> list[tuple[str, bool]]:
        parts = re.split(f"[{OPEN}{CLOSE}]", whole)
        marks = re.findall(f"[{OPEN}{CLOSE}]", whole)
        if marks != [OPEN, CLOSE] * len(targets):
            raise DataError(
                f"{self.template.where} marks {len(marks) // 2} generations for {len(targets)} "
                "messages of the assistant; each needs one"
            )
        flags = [flag for one in targets for flag in (False, one)]
        return list(zip(parts, [*flags, False], strict=True))

    def _check_tools(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> None:
        """Raise DataError for tools and tool calls that the template does not write."""
        calling = [i for i, message in enumerate(messages, 1) if message.get("tool_calls")]
        if calling and "tool_calls" not in self.template.source:
            raise DataError(
                f"message {calling[0]} has 'tool_calls', which {self.template.where} does not "
                "write; give a template that does with --template, or the call as content"
            )
        if tools and "tools" not in self.template.source:
            raise DataError(
                f"the record has 'tools', which {self.template.where} does not write; give a "
                "template that does with --template, or leave them out"
            )

    def _check_roles(
        self, messages: Sequence[Message], whole: str, tools: Sequence[Any] | None, prompt: bool
    ) -> None:
        """Raise DataError for a role whose messages the template leaves out; try each role once."""
        for i, message in enumerate(messages):
            role = message["role"]
            if role in self._known_roles or not message.get("content"):
                continue
            others = [*messages[:i], *messages[i + 1 :]]
            try:
                same = self.template.render(others, prompt=prompt, tools=tools) == whole
            except DataError:  # it needs the message, so it knows the role
                same = False
            if same:
                raise DataError(
                    f"{self.template.where} does not know the role {role!r}: it leaves message "
                    f"{i + 1} out"
                )
            self._known_roles.add(role)

    def _guard(self, value: Any) -> Any:
        """Replace names of special tokens in all texts of a value by their stand-ins."""
        if isinstance(value, dict):
            return {key: self._guard(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._guard(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if found := FORBIDDEN.search(value):
            raise DataError(
                f"the text has U+{ord(found[0]):04X}, which means nothing outside one program; "
                "take it out"
            )
        return self._names.sub(lambda name: self._stand_ins[name[0]], value)


def read_end_of_turn(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> int | None:
    """Find the token that ends the assistant's turn by the template in tokenizer_config.json.

    None where the template does not tell.
    """
    try:
        return ChatEncoder(
            tokenizer, choose_template(settings, default=CHAT_TEMPLATE)
        ).find_end_of_turn()
    except DataError:
        return None
