"""Encodes conversations as token ids with a loss mask over what the assistant says.

Which text is the assistant's follows from how it was rendered, never from searching for words in
it: either the template marks it with `{% generation %}`, or it is what the rendering gains when
the assistant's message is added (`dialogue`). Text that spells the name of a special token stays
text, unless the user says that messages may write that token.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hermes.chat_templates.batch import OpenedConversation, open_ahead
from hermes.chat_templates.calls import convert_calls
from hermes.chat_templates.checks import check_names, check_roles, check_tools
from hermes.chat_templates.dialogue import Dialogue
from hermes.chat_templates.example import Example, make_example
from hermes.chat_templates.guard import GuardedMessages, guard_messages
from hermes.chat_templates.messages import Conversation, Message
from hermes.chat_templates.sandbox import CLOSE, OPEN
from hermes.chat_templates.template import Template, choose_template
from hermes.chat_templates.text_encoder import Piece, TextEncoder
from hermes.errors import DataError, suggest_nearest
from hermes.formatting import format_count
from hermes.tokenizer import CHAT_TEMPLATE, Tokenizer

__all__ = ["ChatEncoder", "read_end_of_turn"]


class ChatEncoder:
    """Encodes conversations with one tokenizer and one template.

    message_tokens: names of special tokens that messages may write, such as '<think>'; elsewhere
    they are text. unread: counts of the fields of records and messages that nothing read so far.
    Raises DataError for a message token that is none.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: Template, message_tokens: Iterable[str] = ()
    ):
        self.tokenizer = tokenizer
        self.template = template
        self.unread: Counter[str] = Counter()
        special = [tokenizer.get_token_bytes(i).decode() for i in sorted(tokenizer.special_ids)]
        self.message_tokens = allowed = frozenset(message_tokens)
        for name in allowed:
            if name not in special:
                hint = suggest_nearest(name, special) or f"; it has {', '.join(special[:9])}"
                raise DataError(
                    f"--message-token {name!r} is not a special token of this tokenizer{hint}"
                )
        ids = [i for name in allowed for i in tokenizer.encode(name, special=True)]
        self._texts = TextEncoder(tokenizer, template, frozenset(ids))
        longest_first = sorted(set(special) - allowed, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._known_roles: set[str] = set()
        self._end_of_turn: int | None = None

    def copy_with_arguments(self, arguments: Mapping[str, Any]) -> "ChatEncoder":
        """The same with more arguments of the template. Raises DataError for unknown ones."""
        own = self.template
        template = Template(
            own.source, where=own.where, names=own.names, arguments={**own.arguments, **arguments}
        )
        return ChatEncoder(self.tokenizer, template, self.message_tokens)

    def encode(self, conversation: Conversation, *, whole: bool = False) -> Example:
        """Encode a conversation, up to the last token in the loss mask.

        The loss mask covers the assistant's messages that are trained on; with `whole`, all tokens.
        Plain text is covered whole and followed by an end-of-text token. Raises DataError, its
        message beginning with the conversation's place; also where one example cannot hold it.
        """
        try:
            examples = self._encode(conversation, whole, several=False)
        except DataError as error:
            raise DataError(f"{conversation.where}: {error}") from None
        return examples[0]

    def encode_all(self, conversation: Conversation, *, whole: bool = False) -> list[Example]:
        """Encode a conversation as one example, or as several.

        A template may render a turn otherwise once more follows: without its reasoning, say. What
        was generated before such a turn is not what stands in the whole, so the turn gets an
        example that ends with it. Raises DataError.
        """
        try:
            return self._encode(conversation, whole, several=True)
        except DataError as error:
            raise DataError(f"{conversation.where}: {error}") from None

    def encode_many(
        self,
        conversations: Iterable[Conversation],
        *,
        whole: bool = False,
        several: bool = True,
    ) -> Iterator[list[Example]]:
        """Encode each conversation as `encode_all` does, while the next ones are rendered.

        several: whether one may be several examples; else as `encode` does. Raises DataError.
        """

        def open_one(conversation: Conversation) -> OpenedConversation:
            return self._open(conversation.messages, conversation.tools)

        for conversation, opened in open_ahead(conversations, self.template, open_one):
            try:
                yield self._encode(conversation, whole, several=several, opened=opened)
            except DataError as error:
                raise DataError(f"{conversation.where}: {error}") from None

    def _encode(
        self,
        conversation: Conversation,
        whole: bool,
        *,
        several: bool,
        opened: OpenedConversation | None = None,
    ) -> list[Example]:
        where, messages = conversation.where, conversation.messages
        self.unread.update(map(repr, conversation.unread))
        if conversation.text is not None:
            ids = self._encode_text(conversation.text)
            return [make_example(ids, [1.0] * len(ids), conversation.weight, where)]
        guarded, dialogue = self._prepare(messages, conversation.tools, opened=opened)
        answers = [i for i, turn in enumerate(messages) if turn["role"] == "assistant"]
        weights = {i: conversation.weights.get(i, 1.0) for i in answers}
        left = [i for i in answers if i not in conversation.untrained and weights[i]]
        if not left:
            raise DataError("no message of the assistant is trained on")
        if self.template.marks:
            parts = [self._split_at_marks(dialogue, answers, set(left), weights)]
        else:
            parts = []
            while left:
                pieces, left = self._split_turns(dialogue, left, weights, whole=whole)
                if left and not several:
                    raise DataError(dialogue.explain_missing(left[-1], len(messages)))
                parts.append(pieces)
                left = [] if whole else left
        for turn in dialogue.turns[conversation.counted :]:
            self.unread.update(f"{name!r} of messages" for name in turn.list_unread())
        examples = []
        for number, pieces in enumerate(reversed(parts)):
            ids, found = self._texts.encode_pieces(guarded, pieces)
            if not any(found):
                raise DataError("the template gives the assistant's messages no token")
            context = 1.0 if whole else 0.0
            each = [context if weight is None else weight for weight in found]
            examples.append(make_example(ids, each, conversation.weight, where, number))
        return examples

    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None
    ) -> list[int]:
        """Encode messages up to where the assistant answers, as in training. Raises DataError."""
        guarded, dialogue = self._prepare(messages, tools, prompt=True)
        if self.template.marks:
            answers = [i for i, turn in enumerate(messages) if turn["role"] == "assistant"]
            pieces = self._split_at_marks(dialogue, answers, set(), {}, prompt=True)
        else:
            pieces, _ = self._split_turns(dialogue, [], {}, prompt=True)
        ids: list[int] = []
        for text, _ in pieces:
            ids += self._texts.tokenize(guarded, text, ids[-1] if ids else None)[0]
        return ids

    def encode_message(self, text: str) -> list[int]:
        """Encode one message of the user, up to where the assistant answers. Raises DataError."""
        return self.encode_prompt([{"role": "user", "content": text}])

    def find_end_of_turn(self) -> int:
        """Find the token that ends the assistant's turn. Raises DataError."""
        if self._end_of_turn is None:
            turn = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "a"})
            (example,) = self._encode(Conversation(turn, self.template.where), False, several=False)
            self._end_of_turn = int(example.ids[example.loss_mask][-1])
        return self._end_of_turn

    def _encode_text(self, text: str) -> list[int]:
        if self.tokenizer.eos_id is None:
            raise DataError(
                "the tokenizer has no token that ends a text, such as '<|eos|>' or '</s>'"
            )
        begin = self.tokenizer.beginning
        return [*begin, *self.tokenizer.encode(text), self.tokenizer.eos_id]

    def _open(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> OpenedConversation:
        """Guard messages, and refuse what the template does not write."""
        check_tools(self.template, messages, tools)
        messages = convert_calls(messages, self.template)
        guarded = guard_messages(messages, self._names, self.template.source)
        is_ended = partial(self._texts.is_ended, guarded)
        return guarded, Dialogue(self.template, guarded.turns, tools, is_ended), messages

    def _prepare(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        *,
        prompt: bool = False,
        opened: OpenedConversation | None = None,
    ) -> tuple[GuardedMessages, Dialogue]:
        """Guard messages, render them once, and refuse what the template would lose."""
        guarded, dialogue, messages = opened or self._open(messages, tools)
        whole = dialogue.render(len(messages), prompt=prompt)
        if guarded.names:
            check_names(self.template, guarded, messages, whole, tools, prompt)
        check_roles(dialogue, whole, prompt, self._known_roles)
        return guarded, dialogue

    def _split_turns(
        self,
        dialogue: Dialogue,
        targets: Sequence[int],
        weights: Mapping[int, float],
        *,
        prompt: bool = False,
        whole: bool = False,
    ) -> tuple[list[Piece], list[int]]:
        """Render messages up to the last target and cut the text at the assistant's turns.

        weights: of the assistant's messages. whole: the rest is trained on, too, so turns of weight
        0 must be found. -> pieces, and the targets that the text does not have as they are
        generated.
        """
        count = targets[-1] + 1 if targets else len(dialogue.turns)
        wanted, left = set(targets), list[int]()
        spans = []
        for i in range(count - 1, -1, -1):
            if dialogue.turns[i].role != "assistant":
                continue
            span = dialogue.find_turn(i, count, prompt=prompt)
            if i in wanted and (span is None or left):
                if i == targets[-1]:
                    raise DataError(dialogue.explain_missing(i, count))
                left.append(i)
            if span is None and whole and weights.get(i) == 0:
                raise DataError(dialogue.explain_missing(i, count))
            if span is not None:
                is_target = i in wanted and not left
                spans.append((*span, _choose_weight(weights, i, is_target)))
        text, done = dialogue.get_text(count, prompt=prompt), 0
        pieces: list[Piece] = []
        for begin, end, weight in reversed(spans):
            if begin >= done:
                pieces += [(text[done:begin], None), (text[begin:end], weight)]
                done = end
        return [*pieces, (text[done:], None)], left[::-1]

    def _split_at_marks(
        self,
        dialogue: Dialogue,
        answers: Sequence[int],
        targets: set[int],
        weights: Mapping[int, float],
        *,
        prompt: bool = False,
    ) -> list[Piece]:
        whole = dialogue.render(len(dialogue.turns), prompt=prompt)
        if whole.count(OPEN) > len(answers):  # a turn may be marked in pieces, as by TRL's Phi 3
            whole = whole.replace(CLOSE + OPEN, "")
        parts = re.split(f"[{OPEN}{CLOSE}]", whole)
        marks = re.findall(f"[{OPEN}{CLOSE}]", whole)
        if marks != [OPEN, CLOSE] * len(answers):
            raise DataError(
                f"{self.template.where} marks {format_count(len(marks) // 2, 'generations')} for "
                f"{format_count(len(answers), 'messages')} of the assistant; each needs one"
            )
        own = [w for i in answers for w in (None, _choose_weight(weights, i, i in targets))]
        return list(zip(parts, [*own, None], strict=True))


def _choose_weight(weights: Mapping[int, float], index: int, is_target: bool) -> float | None:
    """The weight of a turn: its own, 0 where it must not be trained on, None for context."""
    weight = weights.get(index, 1.0)
    return weight if is_target or weight == 0 else None


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
