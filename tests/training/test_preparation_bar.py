"""How far a preparation is: nothing of a short one, a line now and then, a bar in a terminal."""

import io

from hermes.data.progress import PreparationProgress
from hermes.training.preparation_bar import PreparationDisplay, describe_progress


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def show(progress, times):
    """What is said of a preparation of 100 bytes a second, shown at each time."""
    clock, stream = Clock(), io.StringIO()
    with PreparationDisplay(progress, stream, clock) as display:
        for clock.seconds in times:
            done = int(100 * clock.seconds)
            display.show(PreparationProgress(10_000, done, done // 10, done // 4))
    return stream.getvalue().splitlines()


def test_what_takes_two_seconds_needs_no_word():
    assert show(True, [0, 1, 1.9]) == []


def test_a_long_one_is_told_after_two_seconds_and_every_half_minute():
    lines = show(True, [0, *range(1, 71)])
    assert lines == [
        f"tokenizing: {share} {documents} documents, {tokens} tokens, 100 B/s, {left} left"
        for share, documents, tokens, left in (
            ("2%", 20, 50, "0:01:38"),
            ("33%", 330, 825, "0:01:07"),
            ("64%", 640, "1,600", "0:00:36"),
        )
    ]


def test_nothing_is_told_where_nothing_is_wanted():
    assert show(False, range(0, 90, 3)) == []
    assert show(None, range(0, 90, 3)) == []


def test_of_an_unknown_size_no_time_is_left():
    said = describe_progress(PreparationProgress(0, 500, 3, 90), 5.0)
    assert said == "3 documents, 90 tokens, 100 B/s"
