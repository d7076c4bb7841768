"""Which turns of a conversation are left out where the context has no room for all."""

import pytest

from hermes.inference.conversation_window import fit_conversation, reserve_answer


def encode(messages):
    """A token for each character, and one for each message."""
    return [ord(c) for message in messages for c in f"{message['content']}|"]


def make_messages(text):
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[one[0]], "content": one} for one in text.split()]


@pytest.mark.parametrize(
    ("conversation", "room", "kept", "dropped"),
    [
        ("s u1 a1 u2 a2 u3", 99, "s u1 a1 u2 a2 u3", 0),
        ("s u1 a1 u2 a2 u3", 17, "s u1 a1 u2 a2 u3", 0),
        ("s u1 a1 u2 a2 u3", 16, "s u2 a2 u3", 2),
        ("s u1 a1 u2 a2 u3", 11, "s u2 a2 u3", 2),
        ("s u1 a1 u2 a2 u3", 10, "s u3", 4),
        ("s u1 a1 u2 a2 u3", 1, "s u3", 4),  # which the caller refuses
        ("u1 a1 t1 a2 u2 a3 u3", 17, "u2 a3 u3", 4),  # a turn goes with its tools
        ("u1 a1 a2", 3, "u1 a1 a2", 0),
        ("a1 a2", 3, "a1 a2", 0),
    ],
)
def test_the_oldest_turns_go_first_and_the_system_prompt_and_the_last_stay(
    conversation, room, kept, dropped
):
    found = fit_conversation(encode, make_messages(conversation), room)
    assert found == (encode(make_messages(kept)), dropped)


def test_long_conversations_are_rendered_few_times():
    rendered = []
    messages = make_messages(" ".join(f"u{i} a{i}" for i in range(1000)))
    ids, dropped = fit_conversation(lambda some: rendered.append(0) or encode(some), messages, 100)
    assert len(ids) <= 100 < len(encode(messages[dropped - 2 :]))
    assert len(rendered) <= 12


def test_an_answer_gets_a_quarter_of_the_context_or_what_it_asks_for():
    assert reserve_answer(128, None) == reserve_answer(128, 999) == 32
    assert reserve_answer(128, 5) == 5
    assert reserve_answer(2, None) == 1
