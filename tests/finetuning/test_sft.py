"""Learning from conversations: packing, padding, and whole runs on either backend."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from hermes.api import collect
from hermes.chat_templates.encoder import Example
from hermes.checkpoint import Progress, save
from hermes.data import Cursor
from hermes.data.conversations import parse_conversation, read_conversations
from hermes.data.example_dataset import (
    ExampleDataset,
    fit_examples,
    pack_rows,
    round_width,
    split_examples,
)
from hermes.data.records import Record
from hermes.errors import DataError, HermesError
from hermes.finetuning.base_model import add_special_tokens, open_base_model
from hermes.finetuning.sft import SFTData
from hermes.inference.sampling import Sampling
from hermes.interface import IGNORE, Batch, Options, TrainState, find_backend
from hermes.interop.companions import make_companions
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.tokenizer import build_tokenizer_config, train_tokenizer
from hermes.training.request import RunRequest
from hermes.training.run import open_run
from tests.finetuning.support import (
    TEXT,
    small_checkpoint,
    small_spec,
    small_tokenizer,
    some_chats,
    write_lines,
)

BACKENDS = ["torch", "mlx"]


def example(length, number=0, learnt=None):
    ids = (np.arange(length) * 7 + 11 * number) % 290
    flags = np.arange(length) >= (length // 2 if learnt is None else learnt)
    flags[0] = False
    return Example(ids.astype(np.int32), flags, f"f:{number}")


def examples(count=9):
    return [example(3 + 5 * (i % 4), i) for i in range(count)]


def data(some=None, **settings):
    some = examples() if some is None else some
    return ExampleDataset(some, **{"seq_len": 24, "vocab_size": 300, **settings})


def whole_update(made, micro_batch=8):
    rows = len(made.train)
    return made.draw_batch(Cursor(), samples=rows, micro_batch=rows, accum=1)[0]


def test_rows_are_filled_by_best_fit_and_hold_every_example_once():
    assert pack_rows([5, 3, 8, 2, 2], 10) == [[2, 4], [0, 1, 3]]
    lengths = [1 + (13 * i) % 17 for i in range(100)]
    rows = pack_rows(lengths, 20)
    assert sorted(i for row in rows for i in row) == list(range(100))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 20
    assert len(rows) <= 1.05 * sum(lengths) / 20 + 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_packed_losses_are_those_of_the_examples_alone(backend, precision):
    """Attention and positions stay inside each example, and no last token predicts a first."""
    spec = small_spec()
    model = find_backend(backend).build(
        spec, init_weights(spec, 0), Options(device="cpu", precision=precision)
    )
    one_by_one = sum(
        model.loss(batch) * batch.num_terms
        for some in examples()
        for batch in [whole_update(data([some], pack=False))]
    )
    for pack in (True, False):
        batch = whole_update(data(pack=pack))
        assert batch.num_terms == sum(int(some.loss_mask.sum()) for some in examples())
        bound = 1e-6 if precision == "float32" else 1e-12
        assert model.loss(batch) * batch.num_terms == pytest.approx(one_by_one, rel=bound)
    mixed = whole_update(data())
    leaking = Batch(mixed.tokens, mixed.targets, mixed.rows)
    assert abs(model.loss(leaking) * leaking.num_terms - one_by_one) > 1e-4 * one_by_one


def test_no_token_of_one_example_predicts_anothers():
    batch = whole_update(data())
    for tokens, targets, segments in zip(
        batch.tokens[0], batch.targets[0], batch.segments[0], strict=True
    ):
        for place in np.flatnonzero(targets != IGNORE):
            after = place + 1
            inside = after < len(tokens) and segments[after] == segments[place]
            assert segments[place] > 0
            assert not inside or tokens[after] == targets[place]


def test_the_order_is_a_function_of_the_seed_and_of_no_split():
    made = data(seed=3)
    samples = len(made.train)
    whole, after = made.draw_batch(Cursor(), samples=samples, micro_batch=samples, accum=1)
    parts, _ = made.draw_batch(Cursor(), samples=samples, micro_batch=1, accum=samples)
    np.testing.assert_array_equal(whole.tokens[0], parts.tokens[:, 0])
    assert after == Cursor(1, 0)
    other = data(seed=4).draw_batch(Cursor(), samples=samples, micro_batch=samples, accum=1)[0]
    assert not np.array_equal(other.tokens, whole.tokens)


def test_what_is_held_out_is_in_no_update():
    made = data(val_fraction=0.3)
    training = whole_update(made)
    out = next(made.iterate_validation(len(made.held_out)))
    assert training.num_terms + out.num_terms == sum(int(e.loss_mask.sum()) for e in examples())
    assert split_examples(10, 0.3, 1) == split_examples(10, 0.3, 1)
    assert len(split_examples(10, 0.3, 1)[1]) == 3


def test_a_padded_batch_is_no_wider_than_one_of_four_widths():
    assert [round_width(n, 512) for n in (1, 128, 129, 500)] == [128, 128, 256, 512]
    assert round_width(3, 10) == 10
    assert whole_update(data([example(5)], pack=False, seq_len=128)).tokens.shape[-1] == 32


def test_a_place_without_an_example_counts_for_nothing():
    batch, _ = data([example(5)]).draw_batch(Cursor(), samples=1, micro_batch=3, accum=2)
    assert batch.tokens.shape == (2, 3, 24)
    assert batch.num_terms == int(example(5).loss_mask.sum())


def test_a_conversation_that_does_not_fit_is_refused_dropped_or_cut():
    some = [example(30, 1), example(9, 2)]
    with pytest.raises(DataError) as refused:
        fit_examples(some, 24)
    assert str(refused.value) == (
        "f:1: 30 tokens, more than --seq-len 24 has room for; choose a longer one, or --overlong "
        "drop or truncate"
    )
    dropped = fit_examples(some, 24, "drop")
    assert ([len(e) for e in dropped.examples], dropped.dropped, dropped.cut) == ([9], 1, 0)
    cut = fit_examples(some, 24, "truncate")
    assert ([len(e) for e in cut.examples], cut.dropped, cut.cut) == ([25, 9], 0, 1)
    with pytest.raises(DataError, match="no example is left: all 1 are longer than --seq-len 24"):
        fit_examples(some[:1], 24, "drop")
    with pytest.raises(DataError, match="overlong is 'cut'; it must be one of error, drop, trunc"):
        fit_examples(some, 24, "cut")


def test_a_token_that_the_model_has_no_row_for_is_refused():
    with pytest.raises(DataError) as refused:
        data([example(9, 2)], vocab_size=50)
    assert str(refused.value) == (
        "f:2: token id 78 is outside the model's vocabulary of 50; use the tokenizer that belongs "
        "to the model"
    )


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
        start=start.start,
        material=chats.material,
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
        done = collect(run, lambda event: None, lambda: False)
    assert done.finished
    assert done.val_loss is not None
    assert re.fullmatch(
        r"10 examples in \d+ rows; \d+ of \d+ tokens are learnt, each with equal weight", said
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
        collect(run, lambda event: None, lambda: False)
    half = {"batch_size": 2, "max_steps": 2, "lr": 1e-3, "seq_len": 48, "val_fraction": 0.2}
    with open_run(request(tmp_path, "torch", given=half)) as run:
        collect(run, lambda event: None, lambda: False)
    on = request(tmp_path, "mlx", given={"max_steps": 4}, resume=True)
    with open_run(on) as run:
        collect(run, lambda event: None, lambda: False)
    whole = [line["loss"] for line in lines(tmp_path / "whole") if "loss" in line]
    parts = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert parts == pytest.approx(whole, rel=1e-5)


def test_other_conversations_are_another_run(tmp_path):
    with open_run(request(tmp_path, "torch")) as run:
        collect(run, lambda event: None, lambda: False)
    write = some_chats(13)
    asked = request(tmp_path, "torch", given={"max_steps": 6}, resume=True)
    file = write_lines(tmp_path / "chat.jsonl", write)
    assert asked.data == (str(file),)
    with pytest.raises(HermesError, match=r"^the data has fingerprint [0-9a-f]{12} in "):
        open_run(asked)


def test_a_rendered_sample_shows_what_is_learnt(tmp_path):
    from hermes_cli.commands.sft import shown

    encoder = open_base_model(small_checkpoint(tmp_path)).encoder
    record = Record({"prompt": "the cat", "completion": "sat"}, "chat.jsonl:1")
    text = shown(small_tokenizer(), encoder.encode(parse_conversation(record)))
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
