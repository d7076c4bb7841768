"""Windows: the few messages that are rendered to find a turn without all that precedes it.

A window is the messages just before a turn and the turn. Its text, from a message on that is the
same in the whole, is what the whole has there, or would have if the turn were its last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hermes.chat_templates.turns import Turn, split_marked

__all__ = ["Span", "Window", "choose_window", "list_last_questions", "read_window"]

# The messages before a turn that are rendered with it, if the last question is not among them.
NEAR = 4

Span = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """The text of a window from message `first` on.

    before: without the turn, with the prompt to answer. after: with the turn. parts: of messages in
    `after`. question: the last one, where messages from `first` on precede it; what is written
    before it does not depend on what follows, if the whole has the same there.
    """

    first: int
    question: int | None
    before: str
    after: str
    parts: dict[int, Span]

    def is_in(self, text: str, begin: int) -> bool:
        """Whether a text has from `begin` on what the window has before its last question."""
        end = self.parts.get(self.question, (0, 0))[0] if self.question is not None else 0
        return end > 0 and text.startswith(self.after[:end], begin)


def choose_window(
    turns: Sequence[Turn], last_questions: Sequence[int | None], index: int
) -> tuple[tuple[int, ...], int, int | None]:
    """Choose the messages to render for a turn. -> their numbers, the first to compare, question

    They are the system prompt, and the last two questions with all that follows, or where that is
    much, the last question and the messages just before the turn.
    """
    head = [i for i in range(2) if turns[i].role in ("system", "developer")]
    questions = [i for i in range(max(index - 2 * NEAR, 0), index) if turns[i].role == "user"]
    if len(questions) > 1:
        begin, question = questions[-2:]
        return (*head, *range(begin, index + 1)), begin + 1, question
    begin = index - NEAR
    while begin < index and turns[begin].role != "assistant":
        begin += 1
    last = last_questions[index]
    asked = [] if last is None or last >= begin else [last]
    return (*head, *asked, *range(begin, index + 1)), min(begin + 1, index), None


def list_last_questions(turns: Sequence[Turn]) -> list[int | None]:
    """For each message, the number of the last question before it."""
    found: list[int | None] = []
    last = None
    for i, turn in enumerate(turns):
        found.append(last)
        if turn.role == "user":
            last = i
    return found


def read_window(
    before: str, marked: str, index: int, first: int, question: int | None
) -> Window | None:
    """Read the window of a turn from its texts; None where they do not tell.

    before: with the prompt to answer, without the turn. marked: with the turn and marks.
    """
    after, near = split_marked(marked)
    if first not in near or index not in near or not after.startswith(before):
        return None
    start = near[first][0]
    parts = {i: (begin - start, end - start) for i, (begin, end) in near.items() if i >= first}
    return Window(first, question, before[start:], after[start:], parts)
