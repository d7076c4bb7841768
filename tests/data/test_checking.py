"""The check of text finds what would spoil a run, with places, and nothing in good text."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hermes
from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.template import Template
from hermes.data.checking import CheckOptions, RunPlan, check_text, near_duplicates, text_reader
from hermes.data.conversations import parse_conversation
from hermes.data.records import read_records
from hermes.errors import DataError, HermesError
from hermes.tokenizer import CHAT_TEMPLATE, Tokenizer, train_tokenizer
from hermes.training.metrics_file import read_metrics
from hermes_cli.display.data_findings import describe_findings
from tests.data.recorded import LITTLE
from tests.data.support import TEXT
from tests.finetuning.support import small_tokenizer


def test_good_text_has_no_faults(write, tokenizer):
    path = write("a.jsonl", "".join(json.dumps({"text": f"{n} {TEXT}"}) + "\n" for n in range(9)))
    found = check_text(path, tokenizer=tokenizer)
    assert (found.files, found.documents, found.faults, found.unread) == (1, 9, [], {})
    ids = [len(tokenizer.encode(f"{n} {TEXT}")) + 1 for n in range(9)]
    assert (found.tokens, found.longest) == (sum(ids), max(ids))
    assert found.longer == sum(length > 256 for length in ids)
    assert found.bytes_per_token == found.text_bytes / sum(ids)
    assert sum(found.lengths.values()) == 9


FAULTS = {
    "bad_records": '{"text": 7}',
    "replacements": '{"text": "lost \ufffd here"}',
    "mojibake": '{"text": "CafÃ© au lait"}',
    "nuls": '{"text": "a\\u0000b"}',
    "overlap": '{"text": "held out"}',
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_with_its_place_and_no_other(write, fault):
    good = '{"text": "the café is – “good” – and costs 3 €, señor Ångström"}\n'
    path = write("a.jsonl", good + FAULTS[fault] + "\n" + '{"text": "last"}\n')
    held_out = write("val.jsonl", '{"text": "held out"}\n')
    found = check_text(path, validation=held_out)
    assert len(found.faults) == 1
    assert f"{path}:2" in found.faults[0]
    places = getattr(found, fault)
    assert places.count == 1


def test_repeated_documents_and_fields_that_are_not_read_are_told(write):
    lines = ['{"text": "a", "id": 1}', '{"text": "b", "meta": {}, "id": 2}', '{"text": "a"}']
    found = check_text(write("a.jsonl", "\n".join(lines)))
    assert found.unread == {"id": 2, "meta": 1}
    assert (found.repeated.count, found.repeated.first[0][-9:]) == (1, "a.jsonl:3")
    assert found.faults == []


def test_records_without_text_are_told(write):
    lines = ['{"text": ""}', '{"text": "a"}', '""']
    found = check_text(write("a.jsonl", "\n".join(lines)))
    assert found.documents == 1
    assert found.notes == ("2 records without text, of which no document is made",)
    assert check_text(write("b.jsonl", lines[1])).notes == ()


def test_of_many_fields_the_first_are_named_with_how_many_more_there_are(write):
    record = {"text": "words", **{f"field-{number}": 1 for number in range(2000)}}
    found = check_text(write("a.jsonl", json.dumps(record)))
    assert len(found.unread) == 2000
    lines = describe_findings(found, 256)
    (line,) = (line for line in lines if line.startswith("not read"))
    assert line.startswith("not read   'field-0' 1, ")
    assert line.endswith(" and 1,992 more")
    assert len(line) < 200


def test_a_long_document_is_one(write):
    found = check_text(write("a.txt", TEXT * 900))
    assert (found.documents, found.longest) == (1, 900 * len(TEXT))


def test_of_a_long_document_little_is_held(write, tokenizer, monkeypatch):
    """It is encoded in batches of bounded length, and all that is found is the same."""
    words = " ".join(f"word{number}" for number in range(20_000))
    spoilt = words[:400_000] + "CafÃ©\0\ufffd" + words[400_000:]
    path = write("a.jsonl", json.dumps(words) + "\n" + json.dumps(spoilt) + '\n"short one"\n')
    options = CheckOptions(near_duplicates=0.8, seq_len=100_000, show_samples=3)

    def check():
        return check_text(path, tokenizer=tokenizer, validation=path, options=options)

    whole, encode, sizes = check(), Tokenizer.encode_batch, []

    def count(self, texts, **given):
        sizes.append(sum(map(len, texts)))
        return encode(self, texts, **given)

    monkeypatch.setattr(Tokenizer, "encode_batch", count)
    monkeypatch.setattr(text_reader, "choose_batch_size", lambda: 1)
    monkeypatch.setattr(near_duplicates, "HELD", 1000)
    assert check() == whole
    assert len(sizes) == 5  # two pieces of each long document, and the short one
    assert max(sizes) <= 1 << 17
    ids = [[*tokenizer.encode(text), tokenizer.eos_id] for text in (words, spoilt, "short one")]
    assert (whole.tokens, whole.longest) == (sum(map(len, ids)), max(map(len, ids)))


@given(st.text("ab \n", max_size=300), st.integers(1, 40), st.randoms(use_true_random=False))
def test_shingles_are_those_of_the_text_however_it_comes(text, held, random):
    def cut(parts, size):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(near_duplicates, "HELD", size)
            patched.setattr(near_duplicates, "LONGEST_WORD", 0 if has_characters else 1000)
            cutter = near_duplicates.ShingleCutter()
            return [one for part in parts for one in cutter.add(part)] + list(cutter.finish())

    places = sorted(random.choices(range(len(text) + 1), k=5))
    parts = [text[a:b] for a, b in pairwise([0, *places, len(text)])]
    for has_characters in (False, True):
        whole = cut([text], len(text) + 1)
        words = text.split()
        if words and not has_characters:
            count = max(1, len(words) - 4)
            assert whole == [" ".join(words[n : n + 5]).encode() for n in range(count)]
        if max(map(len, words), default=0) < held:  # a longer word is cut
            assert cut(parts, held) == whole


def test_an_empty_or_cut_file_stops_the_check(write):
    with pytest.raises(DataError, match=r"not a whole \.gz file"):
        check_text(write("a.txt.gz", b"\x1f\x8b\x08\x00"))
    with pytest.raises(DataError, match="empty, there is no text in it"):
        check_text(write("a.txt", ""))
    assert hermes.check_data(write("b.txt", "a")).documents == 1


def chat(user, assistant, **others):
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"messages": messages, **others}


def write_lines(write, name, records):
    return write(name, "".join(json.dumps(one) + "\n" for one in records))


def test_writing_systems_share_out_every_byte(write):
    text = "Hello мир 你好 ひら カタ ｶﾅ 한국 αβ e\u0301 🙂 ª µ नमस्ते 12\n\U000103a0 \ue000"
    found = check_text(write("a.txt", text))
    assert sum(found.scripts.values()) == found.text_bytes == len(text.encode())
    assert found.scripts["Han"] == 6
    assert found.scripts["Katakana"] == 12
    assert found.scripts["Latin"] == len("Hello") + 1 + len("ª".encode())
    assert found.scripts["Old Persian"] == 4
    assert {"Cyrillic", "Hangul", "Greek", "Devanagari", "digits", "symbols", "marks",
            "private use", "spaces"} <= found.scripts.keys()  # fmt: skip


def test_near_duplicates_are_told_with_their_likeness(write):
    words = [f"w{n}" for n in range(300)]
    texts = [" ".join(words), " ".join([*words[:150], "x", *words[151:]]), " ".join(words[::-1]),
             " ".join(words), "".join(words), "".join(words) + "ab"]  # fmt: skip
    path = write_lines(write, "a.jsonl", [{"text": text} for text in texts])
    found = check_text(path, options=CheckOptions(near_duplicates=0.8))
    assert found.repeated.count == 1
    assert found.near.count == 2
    assert re.fullmatch(r".*a\.jsonl:2 is 9\d% like .*a\.jsonl:1", found.near.first[0])
    assert re.fullmatch(r".*a\.jsonl:6 is (9\d|100)% like .*a\.jsonl:5", found.near.first[1])
    assert found.faults == []
    held_out = write_lines(write, "val.jsonl", [{"text": texts[1]}])
    found = check_text(path, validation=held_out, options=CheckOptions(near_duplicates=0.8))
    assert (found.overlap.count, found.near_overlap.count) == (1, 1)
    assert [fault for fault in found.faults if "almost in the validation text" in fault]
    assert check_text(path).near is None
    with pytest.raises(DataError, match=r"must be from 0\.1 to below 1, got 1$"):
        check_text(path, options=CheckOptions(near_duplicates=1.0))


def test_conversations_are_counted_as_sft_trains_on_them(write):
    records = [chat(f"question {n}", f"answer {n}", id=n) for n in range(9)]
    records += [{"messages": [{"role": "user", "content": "alone"}]}, chat("CafÃ©", "ok")]
    path = write_lines(write, "a.jsonl", records)
    tokenizer = small_tokenizer()
    options = CheckOptions(kind="conversations", seq_len=24, show_samples=1)
    found = check_text(path, tokenizer=tokenizer, options=options)
    examples = [
        ChatEncoder(tokenizer, Template(CHAT_TEMPLATE, names={})).encode(parse_conversation(record))
        for record in read_records(path)
        if record.value["messages"][1:]
    ]
    assert (found.documents, found.examples, found.bad_records.count) == (10, 10, 1)
    assert found.tokens == sum(map(len, examples))
    assert found.trained == sum(int(one.loss_mask.sum()) for one in examples)
    assert found.ended == 10
    assert found.longer == sum(len(one) > 24 for one in examples) > 0
    assert found.cut_tokens == sum(max(0, len(one) - 24) for one in examples)
    assert found.unread == {"id": 9}
    assert len(found.faults) == 2
    options = CheckOptions(kind="conversations", seq_len=99, show_samples=1)
    (sample,) = check_text(path, tokenizer=tokenizer, options=options).samples
    trained = "".join(text for text, trained in sample.parts if trained)
    assert "answer 0<|im_end|>" in trained
    assert "question" not in trained


def test_data_without_an_end_is_a_fault(write):
    """A model trained on it never ends: sft refuses such a template, and text shows it here."""
    path = write_lines(write, "a.jsonl", [chat("a", "b")] * 2)
    template = write("t.jinja", "{% for m in messages %}{{ m.content }} {% endfor %}")
    options = CheckOptions(kind="conversations", template=template)
    (fault,) = check_text(path, tokenizer=small_tokenizer(), options=options).faults
    assert fault.startswith("2 bad records; the first: ")
    assert "ends the assistant's turn with no special token" in fault
    endless = train_tokenizer([TEXT], vocab_size=280, special_tokens=())
    found = check_text(write("a.txt", TEXT), tokenizer=endless)
    assert (found.ended, found.examples) == (0, 1)
    assert found.faults == [
        "no end of text among the targets of any of 1 example: a model trained on them never ends"
    ]


def test_pairs_without_a_preference_are_a_fault(write):
    pairs = [{"prompt": "a", "chosen": f"b {n}", "rejected": "b 1"} for n in range(4)]
    path = write_lines(write, "a.jsonl", pairs)
    options = CheckOptions(kind="pairs", plan=RunPlan(batch_size=2))
    found = check_text(path, tokenizer=small_tokenizer(), options=options)
    assert (found.documents, found.examples, found.equal.count) == (4, 3, 1)
    assert found.faults == [f"1 pair whose chosen equals rejected; the first: {path}:2"]
    assert (found.bill.samples, found.bill.steps, found.bill.tokens) == (3, 2, found.tokens)


def test_records_of_another_kind_are_named(write):
    found = check_text(write_lines(write, "a.jsonl", [chat("a", "b")] * 3))
    assert found.notes == (
        "3 records have 'messages' and no 'text'; --kind conversations reads them",
    )
    assert len(found.faults) == 1


def test_the_bill_is_that_of_the_run(write, tokenizer):
    """Steps and tokens are those of hermes train; hours and price follow."""
    path = write("a.jsonl", "".join(json.dumps({"text": f"{n} {TEXT}"}) + "\n" for n in range(9)))
    run = {"seq_len": 16, "batch_size": 4, "grad_accum": 2, "epochs": 1.5}
    found = hermes.check_data(
        path, tokenizer=tokenizer, **run, tokens_per_second=10.0, price_per_hour=36.0
    )
    made = hermes.train(
        LITTLE, path, tokenizer=tokenizer, output=path.parent / "run", backend="torch", **run
    )
    assert found.bill.steps == made.steps
    tokens = read_metrics(path.parent / "run")[-1]["tokens"]
    assert found.bill.tokens == tokens
    assert found.bill.hours == pytest.approx(tokens / 36_000)
    assert found.bill.price == pytest.approx(tokens / 1000)
    with pytest.raises(HermesError, match="price_per_hour needs a speed: give tokens_per_second"):
        hermes.check_data(path, tokenizer=tokenizer, price_per_hour=2.0)
    with pytest.raises(HermesError, match="tokens_per_second needs the number of tokens: give t"):
        hermes.check_data(path, tokens_per_second=10.0)
