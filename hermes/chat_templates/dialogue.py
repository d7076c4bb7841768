"""Finds the assistant's turns in a rendered conversation.

The turn of message i is what the rendering gains when the assistant answers: with R(n) the text of
the first n messages and R'(n) that text with the prompt to answer, both R'(i) and R(i + 1) must be
prefixes of the whole, and the turn lies between them. So a turn that is trained on has the tokens
before it that generation would see, and those that it would write. What a template writes after the
last message is left out of R(i + 1) where the turn is ended without it.

Rendering every prefix would take time quadratic in the number of messages. In long conversations
the last messages before a turn are rendered instead, and compared with their part of the whole.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from hermes.chat_templates.template import Template
from hermes.chat_templates.turns import Turn, add_reads, split_marked
from hermes.errors import DataError

__all__ = ["Dialogue"]

# Up to this number of messages all prefixes are rendered whole.
SHORT = 8
# The messages before a turn that are rendered with it, if the last question is not among them.
NEAR = 4

Span = tuple[int, int]


class Dialogue:
    """A conversation with a template; it renders each part once.

    turns: the messages, guarded. tools: for the template. is_ended: whether the text of a turn is
    ended by a special token.
    """

    def __init__(
        self,
        template: Template,
        turns: Sequence[Turn],
        tools: Sequence[Any] | None,
        is_ended: Callable[[str], bool] = lambda text: False,
    ):
        self.template, self.turns, self.tools = template, tuple(turns), tools
        self._is_ended = is_ended
        self._texts: dict[tuple[int, bool], str] = {}
        self._parts: dict[tuple[int, bool], dict[int, Span]] = {}

    def render(self, count: int, *, prompt: bool) -> str:
        """Render the first `count` messages. Raises DataError."""
        key = count, prompt
        if key not in self._texts:
            self._texts[key] = self.template.render(
                self.turns[:count], prompt=prompt, tools=self.tools
            )
        return self._texts[key]

    def list_likely(self) -> list[tuple[int, bool]]:
        """List the (count, prompt) that will be asked for, as far as is known."""
        count = len(self.turns)
        answers = () if self.template.marks else range(count)
        found = {(count, False): None}
        for i in answers:
            if self.turns[i].role == "assistant" and (i < SHORT or i + 1 == count):
                found |= {(i, True): None, (i + 1, False): None}
        return list(found)

    def take_texts(
        self,
        keys: Sequence[tuple[int, bool]],
        texts: Sequence[str | None],
        reads: Sequence[Sequence[str]],
    ) -> None:
        """Take what was rendered ahead, and the fields that were read of each turn."""
        found = zip(keys, texts, strict=True)
        self._texts |= {key: text for key, text in found if text is not None}
        for turn, fields in zip(self.turns, reads, strict=True):
            add_reads(turn, fields)

    def find_turn(self, index: int, count: int, *, prompt: bool = False) -> Span | None:
        """Find the assistant's turn of message `index` in the text of the first `count` messages.

        -> (begin, end), or None where the template renders it otherwise once more follows.
        Raises DataError.
        """
        if index < SHORT or index + 1 == count or self._is_probe(index):
            return self._find_exactly(index, count, prompt)
        if self._trusts_windows:
            found = self._find_by_window(index, count, prompt)
            if found is not None:
                return found
        return self._find_exactly(index, count, prompt)

    def explain_missing(self, index: int, count: int) -> str:
        """Explain why the turn of a message cannot be found."""
        where, whole = self.template.where, self.render(count, prompt=False)
        before, asked = self.render(index, prompt=False), self.render(index, prompt=True)
        if whole.startswith(before) and not whole.startswith(asked):
            prompt = asked.removeprefix(before)
            return (
                f"{where} asks for an answer with {prompt[:80]!r}, and message {index + 1} is not "
                "rendered with that before it; choose another --template, or --template-arg, such "
                "as enable_thinking=false, or mark it with {% generation %} in the template"
            )
        upto, what = (index + 1, "") if whole.startswith(asked) else (index, " and the prompt")
        return (
            f"{where} renders the text up to message {upto}{what} differently when more messages "
            "follow, so the assistant's part cannot be found; mark it with {% generation %} in the "
            "template"
        )

    def _find_exactly(self, index: int, count: int, prompt: bool) -> Span | None:
        whole = self.render(count, prompt=prompt)
        before = self.render(index, prompt=True)
        if not whole.startswith(before):
            return None
        after = self.render(index + 1, prompt=False)
        if not whole.startswith(after):
            after = self._cut_ending(after, len(before), index)
        return (len(before), len(after)) if after and whole.startswith(after) else None

    def _cut_ending(self, after: str, begin: int, index: int) -> str:
        """Cut what follows the last message's part, if the turn from `begin` on is ended before."""
        end = self._find_parts(index + 1, False).get(index, (0, 0))[1]
        return after[:end] if begin < end and self._is_ended(after[begin:end]) else ""

    def _find_by_window(self, index: int, count: int, prompt: bool) -> Span | None:
        """Find a turn by rendering the messages before it alone; None where that does not tell."""
        parts = self._find_parts(count, prompt)
        chosen, first = self._choose_window(index)
        try:
            before = self.template.render(
                [self.turns[i] for i in chosen[:-1]], prompt=True, tools=self.tools
            )
            marked = self.template.render_marked(
                [self.turns[i] for i in chosen], prompt=False, tools=self.tools
            )
        except DataError:  # it may refuse a conversation with a gap
            return None
        after, near = split_marked(marked)
        if not all(i in parts and i in near for i in (first, index)):
            return None
        if not after.startswith(before):
            return None
        # The same text from the first of the near messages on, at another place.
        begin, moved = near[first][0], parts[first][0] - near[first][0]
        whole = self.render(count, prompt=prompt)
        if not whole.startswith(after[begin:], begin + moved):
            after = after[: near[index][1]]  # without what follows the last message
            if not whole.startswith(after[begin:], begin + moved):
                return None
            if len(after) <= len(before) or not self._is_ended(after[len(before) :]):
                return None
        return len(before) + moved, len(after) + moved

    def _choose_window(self, index: int) -> tuple[list[int], int]:
        """Choose the messages to render for a turn, and the first of those to compare.

        They are the system prompt, and the last two questions with all that follows, or where that
        is much, the last question and the messages just before the turn.
        """
        head = [i for i in range(2) if self.turns[i].role in ("system", "developer")]
        questions = [
            i for i in range(max(index - 2 * NEAR, 0), index) if self.turns[i].role == "user"
        ]
        if len(questions) > 1:
            begin = questions[-2]
            return [*head, *range(begin, index + 1)], begin + 1
        begin = index - NEAR
        while begin < index and self.turns[begin].role != "assistant":
            begin += 1
        last = self._last_questions[index]
        asked = [] if last is None or last >= begin else [last]
        return [*head, *asked, *range(begin, index + 1)], min(begin + 1, index)

    @cached_property
    def _last_questions(self) -> list[int | None]:
        """For each message, the number of the last question before it."""
        found: list[int | None] = []
        last = None
        for i, turn in enumerate(self.turns):
            found.append(last)
            if turn.role == "user":
                last = i
        return found

    def _find_parts(self, count: int, prompt: bool) -> dict[int, Span]:
        """Find the part of each message in the text; none where marks would change the text."""
        key = count, prompt
        if key not in self._parts:
            marked = self.template.render_marked(
                self.turns[:count], prompt=prompt, tools=self.tools
            )
            text, parts = split_marked(marked)
            self._parts[key] = parts if text == self.render(count, prompt=prompt) else {}
        return self._parts[key]

    def _is_probe(self, index: int) -> bool:
        """Whether a turn is one of the few that are looked at both ways, about a power of two."""
        return index.bit_length() != (index + 2).bit_length()

    @cached_property
    def _trusts_windows(self) -> bool:
        """Whether whole prefixes have the probes' turns, and windows tell the same of them.

        A template that renders any of them otherwise later may do so for reasons far away.
        """
        count = len(self.turns)
        answers = [i for i in range(SHORT, count - 1) if self.turns[i].role == "assistant"]
        for index in {*filter(self._is_probe, answers), *answers[-1:]}:
            exact = self._find_exactly(index, count, False)
            if exact is None or self._find_by_window(index, count, False) not in (None, exact):
                return False
        return True
