"""Stop strings: never shown, wherever tokens are cut, and nothing before them is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.errors import HermesError
from hermes.inference.stop_strings import StopStrings


def run(pieces, stops):
    matcher = StopStrings(stops)
    shown = "".join(matcher.push(piece) for piece in pieces)
    return shown + matcher.flush(), matcher.found


def test_a_stop_string_across_pieces_is_not_shown():
    assert run(["one", "\n", "", "\nUser", ": two"], ["\n\nUser:"]) == ("one", "\n\nUser:")


def test_what_only_looked_like_a_stop_string_is_shown():
    assert run(["a\n", "\nUse", "ful"], ["\n\nUser:"]) == ("a\n\nUseful", None)


def test_text_is_not_held_back_longer_than_needed():
    matcher = StopStrings(["END"])
    assert [matcher.push(piece) for piece in ("abc", "E", "x", "EN")] == ["abc", "", "Ex", ""]


def test_nothing_comes_after_the_end():
    matcher = StopStrings(["."])
    assert [matcher.push(piece) for piece in ("a. b", "c")] == ["a", ""]
    assert matcher.flush() == ""


@settings(max_examples=200, deadline=None)
@given(
    st.text("ab", max_size=14),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 14), max_size=6),
)
def test_the_cut_into_pieces_changes_nothing(text, stops, cuts):
    ends = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    shown, found = run(pieces, stops)
    assert (shown, found) == run([text], stops) == run(list(text), stops)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert found is not None or shown == text


def test_an_empty_stop_string_is_refused():
    with pytest.raises(HermesError, match="a stop string is empty"):
        StopStrings([""])
