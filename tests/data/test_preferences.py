"""Preference pairs: every form that is read, what is refused, and how they are cut to fit."""

import numpy as np
import pytest

from hermes.chat_templates.example import Example
from hermes.data.encoded_pairs import (
    EncodedPair,
    encode_pair,
    encode_plain_pair,
    fit_pairs,
)
from hermes.errors import DataError
from tests.data.support import encoder, pair
from tests.finetuning.support import (
    small_tokenizer,
)

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


B = {"role": "assistant", "content": "b"}


HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: who?\n\nAssistant:"


FORMS = {
    "strings": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "messages": {"prompt": [U], "chosen": [A], "rejected": [B]},
    "mixed": {"prompt": "q", "chosen": [A], "rejected": "b"},
    "a question": {"question": "q", "chosen": "a", "rejected": "b", "system": ""},
    "an instruction": {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
    "a prompt and whole dialogues": {"prompt": "q", "chosen": [U, A], "rejected": [U, B]},
    "whole dialogues": {"chosen": [U, A], "rejected": [U, B]},
    "whole dialogues as text": {
        "chosen": "\n\nHuman: q\n\nAssistant: a",
        "rejected": "\n\nHuman: q\n\nAssistant: b",
    },
    "a prompt as a dialogue": {
        "prompt": "\n\nHuman: q\n\nAssistant:",
        "chosen": " a",
        "rejected": " b",
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_pair_is_the_same_pair(name):
    found = pair(FORMS[name])
    assert found.prompt == (U,)
    assert found.chosen[0]["content"].strip() == "a"
    assert found.rejected[0]["content"].strip() == "b"


@pytest.mark.parametrize("lead", ["", "\n", "\n\n", "\n\n\n", " "])
def test_a_dialogue_may_begin_with_any_blank_lines_or_none(lead):
    """Of HH's text, some copies have lost the lines before the first turn."""
    text = lead + HH.lstrip()
    whole = pair({"chosen": text + " me", "rejected": text + " mine"})
    apart = pair({"prompt": text, "chosen": " me", "rejected": " mine"})
    for found in (whole, apart):
        assert [m["content"] for m in found.prompt] == ["hi", "hello", "who?"]
        assert found.texts == (text, " me", " mine")
    assert pair({"prompt": "A Human: q", "chosen": "a", "rejected": "b"}).prompt == (
        {"role": "user", "content": "A Human: q"},
    )


def test_the_common_beginning_of_two_dialogues_is_the_prompt():
    found = pair({"chosen": HH + " me", "rejected": HH + " mine"})
    assert [m["content"] for m in found.prompt] == ["hi", "hello", "who?"]
    assert (found.chosen[0]["content"], found.rejected[0]["content"]) == ("me", "mine")
    assert found.texts == (HH, " me", " mine")


def test_orcas_pairs_have_a_system_prompt_and_a_question():
    found = pair({"system": "s", "question": "q", "chosen": "a", "rejected": "b"})
    assert [(m["role"], m["content"]) for m in found.prompt] == [("system", "s"), ("user", "q")]
    assert found.unread == ()
    assert pair({"instruction": "q", "input": "x", "chosen": "a", "rejected": "b"}).prompt == (
        {"role": "user", "content": "q\n\nx"},
    )


def test_a_pair_has_the_weight_of_its_record():
    assert pair({"prompt": "q", "chosen": "a", "rejected": "b", "weight": 2}).weight == 2
    with pytest.raises(DataError, match=r"field 'weight' is -1; it must be a number from 0 on"):
        pair({"prompt": "q", "chosen": "a", "rejected": "b", "weight": -1})


BAD = [
    ({"prompt": "q", "chosen": "a"}, "no field 'rejected', only 'prompt', 'chosen'"),
    (
        {"prompt": "q", "Chosen": "a", "rejected": "b"},
        "no field 'chosen', only 'prompt', 'Chosen', 'rejected'; did you mean it by 'Chosen'?",
    ),
    (
        {"prompt": "q", "chosen": "a", "rejected": "a"},
        "chosen and rejected are equal, so nothing is preferred",
    ),
    ({"prompt": "q", "chosen": " ", "rejected": "b"}, "field 'chosen': an empty completion"),
    ({"prompt": "q", "chosen": "a", "rejected": []}, "field 'rejected': an empty completion"),
    (
        {"prompt": "q", "chosen": [U], "rejected": "b"},
        "field 'chosen': no message of the assistant, so there is nothing to prefer",
    ),
    (
        {"prompt": 7, "chosen": "a", "rejected": "b"},
        "field 'prompt': found 7 where a string or a list of messages is needed",
    ),
    (
        {"chosen": "a", "rejected": "b"},
        "no field 'prompt', only 'chosen', 'rejected'; without it 'chosen' must be a whole "
        "dialogue, as messages or as text that begins with 'Human:'",
    ),
    (
        {"chosen": [U, A], "rejected": [A, B]},
        "chosen and rejected have no first message in common, so there is no prompt",
    ),
    (
        {"chosen": [U, A], "rejected": [U]},
        "field 'rejected': no message of the assistant, so there is nothing to prefer",
    ),
    (
        {"chosen": [U, A], "rejected": [U, A, U, B]},
        "field 'chosen': an empty completion after the common part",
    ),
    ("text", "found a string where an object is needed"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_what_is_no_pair_is_refused_by_file_line_and_reason(value, message):
    with pytest.raises(DataError) as refused:
        pair(value)
    assert str(refused.value) == f"prefs.jsonl:3: {message}"


def test_only_completions_count_and_each_ends_its_turn():
    found = encode_pair(pair(FORMS["strings"]), encoder())
    tokenizer = small_tokenizer()
    for side, text in ((found.chosen, "a"), (found.rejected, "b")):
        assert tokenizer.decode(side.ids[side.loss_mask], skip_special=False) == f"{text}<|im_end|>"
    begin = int(found.chosen.loss_mask.argmax())
    np.testing.assert_array_equal(found.chosen.ids[:begin], found.rejected.ids[:begin])


def test_without_a_template_a_pair_is_its_text_and_an_end():
    tokenizer = small_tokenizer()
    found = encode_plain_pair(pair(FORMS["strings"]), tokenizer)
    assert found.chosen.ids.tolist() == [*tokenizer.encode("qa"), tokenizer.eos_id]
    assert found.chosen.loss_mask.tolist() == [False, True, True]
    with pytest.raises(DataError, match="messages need a chat template; leave --no-template out"):
        encode_plain_pair(pair(FORMS["messages"]), tokenizer)


def side(prompt, completion, first=0):
    ids = np.arange(first, first + prompt + completion, dtype=np.int32)
    return Example(ids, np.arange(prompt + completion) >= prompt, "prefs.jsonl:3")


def test_a_long_prompt_is_cut_from_the_left_and_the_same_for_both_sides():
    fitted = fit_pairs([EncodedPair(side(10, 3), side(10, 5))], 9)
    assert fitted.cut == 1
    for one in (fitted.pairs[0].chosen, fitted.pairs[0].rejected):
        assert one.ids[0] == 6  # 10 - (9 - 5): the longer completion leaves the prompt four
        assert int(one.loss_mask.argmax()) == 4
    assert len(fitted.pairs[0].rejected) == 9


def test_a_completion_that_does_not_fit_is_refused_or_dropped_with_a_count():
    long, short = EncodedPair(side(2, 9), side(2, 1)), EncodedPair(side(2, 3), side(2, 1))
    with pytest.raises(DataError) as refused:
        fit_pairs([long], 9)
    assert str(refused.value) == (
        "prefs.jsonl:3: a completion of 9 tokens does not fit --max-len 9; choose a longer one, or "
        "--drop-overlong"
    )
    fitted = fit_pairs([long, short], 9, drop=True)
    assert (len(fitted.pairs), fitted.dropped, fitted.cut) == (1, 1, 0)
    with pytest.raises(DataError, match="no pair is left: 1 pair has completions that do not fit"):
        fit_pairs([long], 9, drop=True)


def test_tools_and_the_system_prompt_of_a_pair_reach_the_template():
    tools = [{"type": "function", "function": {"name": "f"}}]
    found = pair({"prompt": "q", "chosen": "a", "rejected": "b", "tools": tools, "system": "s"})
    assert found.tools == tuple(tools)
    assert [m["role"] for m in found.prompt] == ["system", "user"]
    with pytest.raises(DataError, match="the record has 'tools', which the chat template does not"):
        encode_pair(found, encoder())


def test_sharegpts_pairs_are_pairs():
    found = pair(
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
            "score": 0.5,
        }
    )
    assert (found.prompt, found.chosen, found.rejected) == ((U,), (A,), (B,))
    assert found.unread == ("score",)


def test_a_null_prompt_is_none():
    found = pair({"prompt": None, "chosen": [U, A], "rejected": [U, B]})
    assert found.prompt == (U,)


def test_a_completion_of_weight_zero_is_refused():
    with pytest.raises(DataError, match="field 'chosen': a message of weight 0"):
        pair({"prompt": "q", "chosen": [{**A, "weight": 0}], "rejected": "b"})


def text_of(one):
    return small_tokenizer().decode(one.ids, skip_special=False)


def test_a_long_dialogue_loses_its_oldest_turns_and_keeps_its_system_prompt():
    turns = [{"role": "system", "content": "brief"}]
    for i in range(6):
        turns += [{"role": "user", "content": f"who {i}?"}, {"role": "assistant", "content": "me"}]
    turns.append({"role": "user", "content": "and now?"})
    one = encode_pair(pair({"prompt": turns, "chosen": "a", "rejected": "bb"}), encoder())
    room = len(one.rejected) - 5
    fitted = fit_pairs([one], room)
    assert fitted.cut == 1
    (short,) = fitted.pairs
    start = "<|im_start|>system\nbrief<|im_end|>\n<|im_start|>user\nwho 1?<|im_end|>\n"
    for side, end in ((short.chosen, "a"), (short.rejected, "bb")):
        assert text_of(side).startswith(start)
        assert text_of(side).endswith(f"and now?<|im_end|>\n<|im_start|>assistant\n{end}<|im_end|>")
        assert len(side) <= room
    begin = int(short.chosen.loss_mask.argmax())
    assert begin == int(short.rejected.loss_mask.argmax())


def test_a_long_question_loses_its_beginning_and_keeps_its_role():
    turns = [{"role": "system", "content": "brief"}, {"role": "user", "content": "x" * 50 + " end"}]
    one = encode_pair(pair({"prompt": turns, "chosen": "a", "rejected": "b"}), encoder())
    (short,) = fit_pairs([one], len(one.chosen) - 30).pairs
    start = "<|im_start|>system\nbrief<|im_end|>\n<|im_start|>user\nx"
    assert text_of(short.chosen).startswith(start)
    assert " end<|im_end|>" in text_of(short.chosen)
    assert len(short.chosen) == len(one.chosen) - 30
    with pytest.raises(DataError, match="a completion of 2 tokens does not fit --max-len 9 beside"):
        fit_pairs([one], 9)
    assert fit_pairs([one, one], len(one.chosen)).cut == 0


def test_plain_text_keeps_the_token_that_begins_it():
    tokenizer = small_tokenizer()
    one = encode_plain_pair(pair({"prompt": "", "chosen": "aaaa", "rejected": "b"}), tokenizer)
    assert one.chosen.ids[0] == tokenizer.bos_id
    with pytest.raises(DataError, match="does not fit"):
        fit_pairs([one], len(one.chosen) - 1)


def test_fields_that_nothing_reads_are_counted_once_a_pair():
    made = encoder()
    turns = [U | {"name": "Ann"}]
    both = {"chosen": [A | {"score": 1}], "rejected": [B | {"score": 2}]}
    encode_pair(pair({"prompt": turns, **both, "id": 7}), made)
    assert made.unread == {"'id'": 1, "'name' of messages": 1, "'score' of messages": 2}
