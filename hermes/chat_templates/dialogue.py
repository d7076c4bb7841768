"""Finds the assistant's turns in a rendered conversation.

The turn of message i is what the rendering gains when the assistant answers: with R(n) the text of
the first n messages and R'(n) that text with the prompt to answer, both R'(i) and R(i + 1) must be
prefixes of the whole, and the turn lies between them. So a turn that is trained on has the tokens
before it that generation would see, and those that it would write. What a template writes after the
last message is left out of R(i + 1) where the turn is ended without it.

Rendering every prefix would take time quadratic in the number of messages. In long conversations
the last messages before a turn are rendered instead (`windows`), and compared with their part of
the whole. Where the turn is not in the whole, R(i + 1) is the whole up to them, and then they.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from hermes.chat_templates.template import Rendering, Template
from hermes.chat_templates.turns import Turn, add_reads, split_marked
from hermes.chat_templates.windows import (
    Span,
    Window,
    choose_window,
    list_last_questions,
    read_window,
)
from hermes.errors import DataError

__all__ = ["Dialogue"]

# Up to this number of messages all prefixes are rendered whole.
SHORT = 8

Text = tuple[str, Mapping[int, Span]]
"""A rendered text, and the part of each message in it."""


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
        self._texts: dict[Rendering, str] = {}
        self._refused: set[Rendering] = set()
        self._parts: dict[tuple[int, bool], Mapping[int, Span]] = {}
        self._windows: dict[int, Window | None] = {}
        self._has_probed = False
        self._derived: tuple[int, Text | None] = (0, None)  # the one asked for last

    def render(self, count: int, *, prompt: bool) -> str:
        """Render the first `count` messages. Raises DataError."""
        return self._render((count, prompt, False))

    def _render(self, key: Rendering) -> str:
        if key not in self._texts:
            which, prompt, marks = key
            turns = self.turns[:which] if isinstance(which, int) else [self.turns[i] for i in which]
            render = self.template.render_marked if marks else self.template.render
            self._texts[key] = render(turns, prompt=prompt, tools=self.tools)
        return self._texts[key]

    def list_likely(self) -> list[Rendering]:
        """List the renderings that will be asked for, as far as is known."""
        count = len(self.turns)
        found: dict[Rendering, None] = {(count, False, False): None}
        if self.template.marks:
            return list(found)
        answers = self._list_answers(0, count)
        exact = {*self._probes, *(i for i in answers if i < SHORT or i + 1 == count)}
        for i in sorted(exact):
            found |= {(i, True, False): None, (i + 1, False, False): None}
        later = [i for i in answers if SHORT <= i < count - 1]
        if later:
            found[count, False, True] = None
        for i in later:
            which, _, _ = self._choose_window(i)
            found |= {(which[:-1], True, False): None, (which, False, True): None}
        return list(found)

    def take_texts(
        self,
        keys: Sequence[Rendering],
        texts: Sequence[str | None],
        reads: Sequence[Sequence[str]],
    ) -> None:
        """Take what was rendered ahead, and the fields that were read of each turn."""
        for key, text in zip(keys, texts, strict=True):
            if text is not None:
                self._texts[key] = text
            else:
                self._refused.add(key)
        for turn, fields in zip(self.turns, reads, strict=True):
            add_reads(turn, fields)

    def get_text(self, count: int, *, prompt: bool) -> str:
        """The text of the first `count` messages, rendered or known without. Raises DataError."""
        derived = None if prompt else self._derive(count)
        return self.render(count, prompt=prompt) if derived is None else derived[0]

    def find_turn(self, index: int, count: int, *, prompt: bool = False) -> Span | None:
        """Find the assistant's turn of message `index` in the text of the first `count` messages.

        -> (begin, end), or None where the template renders it otherwise once more follows.
        Raises DataError.
        """
        if index + 1 == count and not prompt and self._derive(count) is not None:
            window = self._windows[index]
            assert window is not None
            end = len(self.get_text(count, prompt=False))
            return end - len(window.after) + len(window.before), end
        is_far = SHORT <= index < count - 1 and index not in self._probes
        if is_far and self._trusts_windows:
            is_known, found = self._find_by_window(index, count, prompt)
            if is_known:
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
                f"rendered with that before it; {self.template.suggest_other_prompt()}"
            )
        upto, what = (index + 1, "") if whole.startswith(asked) else (index, " and the prompt")
        return (
            f"{where} renders the text up to message {upto}{what} differently when more messages "
            "follow, so the assistant's part cannot be found; mark it with {% generation %} in the "
            "template"
        )

    def _find_exactly(self, index: int, count: int, prompt: bool) -> Span | None:
        """Find a turn by rendering all that precedes it."""
        whole = self.get_text(count, prompt=prompt)
        before = self.render(index, prompt=True)
        if not whole.startswith(before):
            return None
        after = self.render(index + 1, prompt=False)
        if not whole.startswith(after):
            if not whole.startswith(after[: len(before) + 1]):
                return None  # already the turn's first character is another
            after = self._cut_ending(after, len(before), index)
        return (len(before), len(after)) if after and whole.startswith(after) else None

    def _cut_ending(self, after: str, begin: int, index: int) -> str:
        """Cut what follows the last message's part, if the turn from `begin` on is ended before."""
        end = self._find_parts(index + 1, False).get(index, (0, 0))[1]
        return after[:end] if begin < end and self._is_ended(after[begin:end]) else ""

    def _find_by_window(self, index: int, count: int, prompt: bool) -> tuple[bool, Span | None]:
        """Find a turn by rendering the messages before it alone. -> whether that tells, the turn"""
        window = self._open_window(index)
        text, parts = self.get_text(count, prompt=prompt), self._find_parts(count, prompt)
        if window is None or window.first not in parts or index not in parts:
            return False, None
        begin = parts[window.first][0]
        for after in (window.after, window.after[: window.parts[index][1]]):
            # The second is without what follows the last message.
            if not text.startswith(after, begin):
                continue
            turn = after[len(window.before) :]
            if after is window.after or (turn and self._is_ended(turn)):
                return True, (begin + len(window.before), begin + len(after))
            return False, None
        return window.is_in(text, begin), None

    def _open_window(self, index: int) -> Window | None:
        """Render the window of a turn; None where that does not tell."""
        if index not in self._windows:
            which, first, question = self._choose_window(index)
            keys: tuple[Rendering, Rendering] = (which[:-1], True, False), (which, False, True)
            self._windows[index] = None
            try:
                if not self._refused.intersection(keys):
                    before, marked = map(self._render, keys)
                    self._windows[index] = read_window(before, marked, index, first, question)
            except DataError:  # it may refuse a conversation with a gap
                pass
        return self._windows[index]

    def _choose_window(self, index: int) -> tuple[tuple[int, ...], int, int | None]:
        return choose_window(self.turns, self._last_questions, index)

    @cached_property
    def _last_questions(self) -> list[int | None]:
        return list_last_questions(self.turns)

    def _derive(self, count: int) -> Text | None:
        """What the first `count` messages are as a conversation, where the whole and a window tell.

        None where they do not, or where messages are to be rendered.
        """
        if count != self._derived[0]:
            index = count - 1
            is_far = SHORT <= index < len(self.turns) - 1
            # Probes are rendered until they have told whether windows are trusted.
            is_open = index not in self._probes or self._has_probed
            is_answer = is_far and is_open and self.turns[index].role == "assistant"
            can_be = is_answer and self._trusts_windows
            self._derived = count, self._join(index) if can_be else None
        return self._derived[1]

    def _join(self, index: int) -> Text | None:
        """Join the whole up to the window of a turn, and the window; None if that does not tell."""
        window, size = self._open_window(index), len(self.turns)
        parts = self._find_parts(size, False)
        if window is None or window.first not in parts:
            return None
        begin, whole = parts[window.first][0], self.render(size, prompt=False)
        if not window.is_in(whole, begin):
            return None
        before = {i: part for i, part in parts.items() if i < window.first}
        moved = {i: (begin + a, begin + b) for i, (a, b) in window.parts.items()}
        return whole[:begin] + window.after, before | moved

    def _find_parts(self, count: int, prompt: bool) -> Mapping[int, Span]:
        """Find the part of each message in the text; none where marks would change the text."""
        derived = None if prompt or count == len(self.turns) else self._derive(count)
        if derived is not None:
            return derived[1]
        key = count, prompt
        if key not in self._parts:
            text, parts = split_marked(self._render((count, prompt, True)))
            self._parts[key] = parts if text == self.render(count, prompt=prompt) else {}
        return self._parts[key]

    def _list_answers(self, begin: int, end: int) -> list[int]:
        return [i for i in range(begin, end) if self.turns[i].role == "assistant"]

    @cached_property
    def _probes(self) -> frozenset[int]:
        """The turns that are looked at both ways: about the powers of two, and the last but one."""
        answers = self._list_answers(SHORT, len(self.turns) - 1)
        near_powers = [i for i in answers if i.bit_length() != (i + 2).bit_length()]
        return frozenset((*near_powers, *answers[-1:]))

    @cached_property
    def _trusts_windows(self) -> bool:
        """Whether of the probes windows tell the same as prefixes rendered whole.

        A template that renders any of them otherwise may do so for reasons far away.
        """
        count = len(self.turns)
        for index in sorted(self._probes):
            before, after = self.render(index, prompt=True), self.render(index + 1, prompt=False)
            exact = self._find_exactly(index, count, False)
            is_known, found = self._find_by_window(index, count, False)
            if not is_known:
                if exact is None:
                    return False
                continue
            joined, window = self._join(index), self._open_window(index)
            if found != exact or window is None:
                return False
            if joined is not None:
                begin = len(joined[0]) - len(window.after)
                if joined[0] != after or joined[0][:begin] + window.before != before:
                    return False
        self._has_probed, self._derived = True, (0, None)
        return True
