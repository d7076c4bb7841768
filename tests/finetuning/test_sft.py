"""Learning from conversations: whole runs on either backend, and where texts end."""

import json
import re
from dataclasses import replace

import pytest

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.template import Template
from hermes.checkpoint import Progress, save
from hermes.data import Cursor
from hermes.data.conversations import parse_conversation, read_conversations
from hermes.data.example_cache import ExampleCache
from hermes.data.example_dataset import ExampleDataset
from hermes.data.records import Record
from hermes.errors import HermesError
from hermes.finetuning.base_model import add_special_tokens, open_base_model
from hermes.finetuning.sft import SFTData
from hermes.inference.sampling import Sampling
from hermes.interface import Options, TrainState, find_backend
from hermes.interop.companions import make_companions
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.tokenizer import CHAT_TEMPLATE, build_tokenizer_config, train_tokenizer
from hermes.training.request import RunRequest
from hermes.training.run import open_run
from tests.finetuning.support import (
    TEXT,
    small_checkpoint,
    small_spec,
    small_tokenizer,
    some_chats,
    train_to_end,
    write_lines,
)

BACKENDS = ["torch", "mlx"]


def request(tmp_path, backend, *, output="run", **settings):
    start = open_base_model(small_checkpoint(tmp_path / "base"))
    file = write_lines(tmp_path / "chat.jsonl", some_chats())
    given = {"batch_size": 2, "max_steps": 4, "lr": 1e-3, "seq_len": 48, "val_fraction": 0.2}
    chats = SFTData(read_conversations(file), start.encoder)
    return RunRequest(
        output=tmp_path / output,
        data=(str(file),),
        backend=find_backend(backend),
        tokenizer=start.tokenizer,
        options=Options(device="cpu"),
        initial_model=start.start,
        make_data=chats.make_training_data,
        tokenizer_settings=start.settings,
        **{"given": given, **settings},
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_learns_conversations_and_leaves_a_checkpoint_that_says_how(backend, tmp_path):
    import hermes

    asked = request(tmp_path, backend)
    with open_run(asked) as run:
        said, out = run.notes
        done = train_to_end(run)
    assert done.finished
    assert done.val_loss is not None
    assert re.fullmatch(
        r"10 examples in \d+ rows; \d+ of \d+ tokens are trained on, each with equal weight", said
    )
    assert out == "2 examples are held out, in rows of their own"
    first, last = lines(asked.output)[0], lines(asked.output)[-1]
    assert first["loss"] == pytest.approx(5.7, abs=0.2)
    assert last["val_bits_per_byte"] > 0
    settings = json.loads((done.checkpoint / "tokenizer_config.json").read_text())
    assert "<|im_start|>" in settings["chat_template"]
    assert hermes.load(done.checkpoint, backend, "cpu").spec.vocab_size == 300


def test_a_run_stopped_on_one_backend_goes_on_on_the_other(tmp_path):
    """Its losses are those of the run that was never stopped, to rounding."""
    with open_run(request(tmp_path, "torch", output="whole")) as run:
        train_to_end(run)
    half = {"batch_size": 2, "max_steps": 2, "lr": 1e-3, "seq_len": 48, "val_fraction": 0.2}
    with open_run(request(tmp_path, "torch", given=half)) as run:
        train_to_end(run)
    on = request(tmp_path, "mlx", given={"max_steps": 4}, resume=True)
    with open_run(on) as run:
        train_to_end(run)
    whole = [line["loss"] for line in lines(tmp_path / "whole") if "loss" in line]
    parts = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert parts == pytest.approx(whole, rel=1e-5)


def test_other_conversations_are_another_run(tmp_path):
    with open_run(request(tmp_path, "torch")) as run:
        train_to_end(run)
    write = some_chats(13)
    asked = request(tmp_path, "torch", given={"max_steps": 6}, resume=True)
    file = write_lines(tmp_path / "chat.jsonl", write)
    assert asked.data == (str(file),)
    with pytest.raises(HermesError, match=r"^the data has fingerprint [0-9a-f]{12} in "):
        open_run(asked)


def test_a_rendered_sample_shows_what_is_learnt(tmp_path):
    from hermes_cli.training.run_training import style_example

    encoder = open_base_model(small_checkpoint(tmp_path)).encoder
    record = Record({"prompt": "the cat", "completion": "sat"}, "chat.jsonl:1")
    text = style_example(small_tokenizer(), encoder.encode(parse_conversation(record)))
    green = "\x1b[32m\x1b[1m[sat<|im_end|>]\x1b[0m"
    assert text.splitlines()[1:] == [
        "<|im_start|>user",
        "the cat<|im_end|>",
        "<|im_start|>assistant",
        green,
    ]


def test_the_token_that_ends_a_turn_is_where_other_tools_stop():
    tokenizer, _ = add_special_tokens(small_tokenizer(), ["<|done|>"])
    turn = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|done|>{% endfor %}"
    asked = "{% if add_generation_prompt %}[assistant]{% endif %}"
    done = tokenizer.find_special_id("<|done|>")
    for template, told in ((turn + asked, True), ("{{ messages[9] }}", False)):
        beside = make_companions(small_spec(), tokenizer, {"chat_template": template})
        assert (done in beside.generation_config["eos_token_id"]) is told


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("<|eos|>", "<|pad|>"),
        ("<|im_end|>", "<|pad|>"),
        ({"content": "<|eos|>"}, "<|pad|>"),
        ("<|nowhere|>", "<|pad|>"),
        (None, "<|pad|>"),
        ("<|bos|>", "<|bos|>"),
        ({"content": "<|filler|>"}, "<|filler|>"),
    ],
)
def test_padding_is_no_end_and_every_file_names_the_same(asked, kept):
    tokenizer, _ = add_special_tokens(small_tokenizer(), ["<|filler|>"])
    settings = build_tokenizer_config(tokenizer) | {"pad_token": asked}
    beside = make_companions(small_spec(), tokenizer, settings)
    number = tokenizer.find_special_id(kept)
    assert beside.tokenizer_config["pad_token"] == kept
    assert beside.config["pad_token_id"] == beside.generation_config["pad_token_id"] == number
    assert number not in beside.generation_config["eos_token_id"]


def test_where_no_token_pads_but_an_end_none_is_named():
    tokenizer = train_tokenizer([TEXT] * 9, vocab_size=280, special_tokens=["<|eos|>"])
    beside = make_companions(
        small_spec(), tokenizer, {"eos_token": "<|eos|>", "pad_token": "<|eos|>"}
    )
    assert "pad_token" not in beside.tokenizer_config
    assert "pad_token_id" not in beside.generation_config
    assert beside.config.get("pad_token_id") is None


def test_text_ends_where_the_checkpoint_says(tmp_path):
    import hermes

    spec = small_spec()
    params = dict(init_weights(spec, 0))
    beside = make_companions(spec, small_tokenizer())

    def written(name, told):
        return save(
            tmp_path / name,
            TrainState(params, params, params, 1),
            spec=spec,
            progress=Progress(run="a" * 16, step=1, recipe=Recipe()),
            companions=replace(beside, generation_config=told),
        )

    greedy = Sampling(temperature=0)

    def first(folder):
        return list(hermes.load(folder, "torch").tokens("the", max_tokens=1, sampling=greedy))

    (token,) = first(written("goes on", {"eos_token_id": 1}))
    assert first(written("ends", {"eos_token_id": [1, token]})) == []
    assert first(written("ends too", {"eos_token_id": token})) == []


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("backend", ["numpy", *BACKENDS])
def test_a_record_of_weight_two_counts_as_two_of_it(backend, pack):
    """In the loss that is trained on; the weight of a single turn likewise."""
    spec = small_spec()
    encoder = ChatEncoder(small_tokenizer(), Template(CHAT_TEMPLATE, names={}))
    once = {"prompt": "who?", "completion": "me"}
    other = {"prompt": "and?", "completion": "nobody else"}

    def measure(*records):
        chats = [parse_conversation(Record(value, f"a:{i}")) for i, value in enumerate(records)]
        examples = [encoder.encode(chat) for chat in chats]
        data = ExampleDataset(examples, seq_len=64, vocab_size=spec.vocab_size, pack=pack)
        size = len(data.train)
        layout = {"samples": size, "micro_batch": 2, "accum": -(-size // 2)}
        batch, _ = data.draw_batch(Cursor(0, 0), **layout)
        options = Options(precision="float64" if backend == "numpy" else "float32")
        model = find_backend(backend).build(spec, init_weights(spec, 0), options)
        return model.loss(batch), batch

    found, weighted = measure(once | {"weight": 2}, other)
    expected, _ = measure(once, other, once)
    assert found == pytest.approx(expected, rel=1e-6)
    assert weighted.counts.weight == pytest.approx(weighted.own_counts.weight)
    assert measure(once, other)[0] != pytest.approx(expected, rel=1e-4)
    turn = {"messages": [{"role": "user", "content": "who?"},
                         {"role": "assistant", "content": "me", "weight": 2}]}  # fmt: skip
    assert measure(turn, other)[0] == pytest.approx(expected, rel=1e-6)
    assert measure(once | {"weight": 0.5}, other | {"weight": 0.25})[0] == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_with_weights_says_so_and_leaves_out_those_of_zero(backend, tmp_path):
    start = open_base_model(small_checkpoint(tmp_path / "base"))
    records = [record | {"weight": i % 3} for i, record in enumerate(some_chats())]
    file = write_lines(tmp_path / "weighted.jsonl", records)
    chats = SFTData(read_conversations(file), start.encoder)
    asked = replace(request(tmp_path, backend), make_data=chats.make_training_data)
    with open_run(asked) as run:
        notes = run.notes
        assert train_to_end(run).finished
    assert notes[0].endswith("tokens are trained on, weighted as the records say")
    assert "4 records of weight 0 are left out" in notes


def test_messages_that_nothing_answers_are_named(tmp_path):
    small_checkpoint(tmp_path / "base")
    turns = [("user", "the cat"), ("assistant", "sat"), ("user", "why?")]
    records = [{"messages": [{"role": role, "content": text} for role, text in turns]}] * 2
    file = write_lines(tmp_path / "open.jsonl", [*records, *some_chats(4)])
    start = open_base_model(tmp_path / "base")
    data = SFTData(read_conversations(file), start.encoder).make_training_data(
        start.spec, start.tokenizer, Recipe(seq_len=48)
    )
    said = "2 records end with messages that nothing answers, which are left out"
    assert said in data.notes


def test_the_second_start_encodes_nothing(tmp_path, monkeypatch):
    """Of the same records, however they are cut to rows; other settings are encoded anew."""
    small_checkpoint(tmp_path / "base")
    records = [{**one, "id": 1} for one in some_chats(4)]
    file = write_lines(tmp_path / "chat.jsonl", records)
    start = open_base_model(tmp_path / "base")

    def make(seq_len, **settings):
        encoder = ChatEncoder(start.tokenizer, start.template)
        cache = ExampleCache(tmp_path / "cache")
        data = SFTData(read_conversations(file), encoder, cache=cache, **settings)
        return data.make_training_data(start.spec, start.tokenizer, Recipe(seq_len=seq_len))

    first = make(48)
    monkeypatch.setattr(ChatEncoder, "encode_many", lambda *_, **__: iter([[]]))
    second = make(48)
    assert second.dataset.fingerprint == first.dataset.fingerprint
    assert second.notes == first.notes
    assert "fields that are not read: 'id' (4)" in second.notes
    assert make(64).dataset.fingerprint == first.dataset.fingerprint
    with pytest.raises(HermesError, match="no example is left"):
        make(48, whole=True)


def test_training_on_the_prompt_trains_on_every_token(tmp_path):
    import hermes

    base, file = small_checkpoint(tmp_path / "base"), tmp_path / "chat.jsonl"
    write_lines(file, some_chats())
    trained = {}
    for wanted in (False, True):
        hermes.sft(
            base,
            file,
            output=tmp_path / str(wanted),
            max_steps=1,
            batch_size=2,
            seq_len=48,
            train_on_prompt=wanted,
            backend="torch",
        )
        trained[wanted] = lines(tmp_path / str(wanted))[0]["tokens"]
    assert 0 < trained[False] < trained[True]
