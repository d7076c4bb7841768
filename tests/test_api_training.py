"""Training from Python: what a command does is one call, with its names and its safeguards."""

import inspect
import json
import signal
import threading

import numpy as np
import pytest

import hermes
from hermes.checkpoint import open_checkpoint
from hermes.errors import HermesError, Interrupted
from hermes.options import get_options
from hermes.training.events import Update
from hermes.training.metrics_file import read_metrics

TEXT = "the cat sat on a mat and then it ran off to see what else there was " * 40
LITTLE = """model little { max_seq_len: 64 hidden_size: 16 num_layers: 2
  block: { attention: { num_heads: 2 } ffn: { hidden_dim: 24 } } }"""
STEPS = {"max_steps": 4, "seq_len": 16, "batch_size": 4, "backend": "torch"}
# Of the command line alone: processes that it starts, values that come from files, other output.
OF_COMMANDS = ("open", "num_gpus", "num_processes", "max_restarts", "set", "json", "print_config")
# Of Python alone.
OF_PYTHON = ("report", "on_start", "stop", "progress", "host", "on_progress")
FUNCTIONS = {
    "train": hermes.train, "finetune": hermes.finetune, "sft": hermes.sft, "dpo": hermes.dpo,
    "eval": hermes.evaluate, "generate": hermes.generate, "chat": hermes.chat,
    "convert": hermes.convert, "merge": hermes.merge, "serve": hermes.serve,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text, conversations, preference pairs, a tokenizer and a run of four steps."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "book.txt").write_text(TEXT, encoding="utf-8")
    chats = [{"prompt": "the cat", "completion": f"sat on mat {n}"} for n in range(24)]
    pairs = [{"prompt": "the cat", "chosen": f"sat {n}", "rejected": f"ran {n}"} for n in range(24)]
    for name, records in (("chats", chats), ("pairs", pairs)):
        text = "\n".join(map(json.dumps, records))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    hermes.train_tokenizer(folder / "book.txt", vocab_size=280).save(folder / "tokenizer.json")
    train(folder, "run")
    return folder


def train(folder, name, **options):
    options = {"model": LITTLE, "data": folder / "book.txt", **STEPS, **options}
    return hermes.train(
        output=folder / name, tokenizer=options.pop("tokenizer", folder / "tokenizer.json"),
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("command", FUNCTIONS)
def test_arguments_have_the_names_and_defaults_of_the_commands_options(command):
    parameters = inspect.signature(FUNCTIONS[command]).parameters
    options = {
        name: option
        for name, option in get_options(command).items()
        if name not in OF_COMMANDS and not (name == "config" and command == "train")
    }
    assert set(options) <= set(parameters)
    for name, option in options.items():
        default = parameters[name].default
        # Without a checkpoint a terminal offers a menu, which a function has not.
        if option.required or (command, name) == ("chat", "checkpoint"):
            assert default is inspect.Parameter.empty, name
        else:
            expected = () if option.multiple else option.default
            assert (default if default != "" else option.default or "") == (
                expected if expected is not None or default != "" else ""
            ), name
    known = {*options, *OF_PYTHON, "src", "dst", "data"}
    assert set(parameters) <= known, set(parameters) - known


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2.0}, "batch_size must be a whole number, got 2.0"),
        ({"lr": "1e-3"}, "lr must be a number, got '1e-3'"),
        ({"resume": "yes"}, "resume must be True or False, got 'yes'"),
        ({"max_steps": True}, "max_steps must be a whole number, got True"),
        ({"device": 0}, "device must be a string or None, got 0"),
        ({"peer_timeout": -1},
         "peer_timeout must be above 0 and at most 1,000,000 seconds, got -1"),
        ({"vocab_size": 300},
         "vocab_size is that of a tokenizer to train; give train_tokenizer=True with it"),
        ({"freeze": "model.*"}, "freeze must be a list, each item a string, got 'model.*'"),
        ({"data": 7}, "data must be a string, a path, a mapping or a list, each item a string or a "
         "path, "
         "got 7"),
        ({"report": 1}, "report must be a function, got 1"),
        ({"optimizer": {"beta2": 0.9}},
         "optimizer must be a string, of type OptimizerRecipe or None, got {'beta2': 0.9} (dict)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_wrong_type_is_refused_before_anything_is_read(tmp_path, options, message):
    with pytest.raises(HermesError) as error:
        hermes.train(**{"model": "no such model", "data": "no-such-file.txt",
                        "output": tmp_path / "run", **options})  # fmt: skip
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()


def test_an_unknown_argument_is_a_type_error_that_names_the_function():
    with pytest.raises(TypeError, match=r"^train\(\) got an unexpected keyword argument 'leraning"):
        hermes.train(leraning_rate=1)


def test_numpys_numbers_are_numbers(folder):
    """They train, are saved, and give the same run as Python's."""
    plain = train(folder, "plain", lr=0.5, seed=3)
    numpy = train(folder, "numpy", lr=np.float64(0.5), seed=np.int64(3), max_steps=np.int32(4),
                  seq_len=np.uint8(16), batch_size=np.int64(4), resume=np.bool_(False))  # fmt: skip
    assert numpy.loss == plain.loss
    recipe = open_checkpoint(numpy.checkpoint).progress.recipe
    assert recipe == open_checkpoint(plain.checkpoint).progress.recipe
    assert type(recipe.seed) is int
    assert hermes.Recipe(batch_size=np.int64(2), lr=np.float32(0.5)).batch_size == 2


@pytest.fixture
def ctrl_c():
    """SIGINT as Python handles it; a shell that starts tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_finishes_the_step_and_saves_and_the_run_resumes_to_the_same_weights(folder):
    def interrupt(event):
        if isinstance(event, Update) and event.step == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        KeyboardInterrupt, match=r"^stopped at step 3 of 4 and saved in .*step-0+3;"
    ):
        train(folder, "interrupted", report=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    open_checkpoint(folder / "interrupted/step-00000003")
    resumed = train(folder, "interrupted", resume=True)
    whole = open_checkpoint(folder / "run/step-00000004").params
    for name, array in open_checkpoint(resumed.checkpoint).params.items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_end_saves_too(folder, number):
    """As a batch system and a closed terminal send it."""

    def interrupt(event):
        if isinstance(event, Update) and event.step == 2:
            signal.raise_signal(number)

    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted, match=r"^stopped at step 3 of 4 and saved in"):
            train(folder, f"signal-{number}", report=interrupt)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert train(folder, f"signal-{number}", resume=True).steps == 4


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_ends_at_once(folder):
    def interrupt(event):
        if isinstance(event, Update) and event.step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(folder, "ended", report=interrupt)
    assert not list((folder / "ended").glob("step-*"))


def test_another_thread_trains_too(folder):
    """Signals reach the main thread alone."""
    results = []
    thread = threading.Thread(target=lambda: results.append(train(folder, "thread")))
    thread.start()
    thread.join()
    assert results[0].finished


def test_a_resumed_run_has_its_own_settings_where_arguments_are_left_out(folder):
    """And one that is given is compared, though it is the default."""
    train(folder, "own", lr=1e-2)
    with pytest.raises(HermesError, match=r"^lr is 0.01 in .* and 0.0003 here; leave it out"):
        train(folder, "own", lr=3e-4, max_steps=6, resume=True)
    assert train(folder, "own", max_steps=6, resume=True).steps == 6
    assert {line["lr"] for line in read_metrics(folder / "own")} == {1e-2}


def test_a_run_from_python_is_resumed_by_the_command(folder, capsys):
    from hermes_cli.main import run

    train(folder, "handed")
    assert run(["train", "--resume", "--output", str(folder / "handed"), "--max-steps", "6"]) == 0
    assert "step 6/6" in capsys.readouterr().err


def test_a_tokenizer_is_trained_and_saved_with_the_run(folder):
    path = folder / "new.json"
    train(folder, "tokenized", tokenizer=path, train_tokenizer=True, vocab_size=270)
    assert hermes.Tokenizer.load(path).vocab_size == 270


@pytest.mark.parametrize("progress", [True, None, False])
def test_progress_is_shown_where_it_is_asked_for(folder, capsys, progress):
    result = train(folder, f"shown-{progress}", progress=progress)
    said = capsys.readouterr().err
    assert ("step 4/4" in said) is (progress is True)
    assert all((note in said) is (progress is True) for note in result.notes)


def test_each_kind_of_finetuning_is_one_call(folder, capsys):
    base = folder / "run"
    options = {"backend": "torch", "max_steps": 2, "batch_size": 2}
    text = hermes.finetune(base, folder / "book.txt", output=folder / "ft", seq_len=16, **options)
    chats = hermes.sft(base, folder / "chats.jsonl", output=folder / "sft", lora_rank=2,
                       show_samples=1, progress=True, overlong="drop", **options)  # fmt: skip
    assert "[sat on mat 0" in capsys.readouterr().err
    pairs = hermes.dpo(base, folder / "pairs.jsonl", output=folder / "dpo", no_template=True,
                       **options)  # fmt: skip
    for result in (text, chats, pairs):
        assert (result.steps, result.finished) == (2, True)
    assert pairs.loss == pytest.approx(np.log(2), abs=1e-3)
    same = train(folder, "from", model="tiny", checkpoint=None)
    assert same.finished
    with pytest.raises(HermesError, match="model belongs to a new model; leave checkpoint out"):
        train(folder, "both", checkpoint=base)
    merged = hermes.merge(folder / "sft", folder / "merged")
    assert repr(merged).startswith(f"ConvertResult({folder / 'merged'}: LlamaForCausalLM, 13,392 ")


def test_a_resumed_run_keeps_what_makes_its_samples(folder):
    options = {"backend": "torch", "batch_size": 2, "output": folder / "rows", "overlong": "drop"}
    call = (folder / "run", folder / "chats.jsonl")
    hermes.sft(*call, pack=False, max_steps=2, **options)
    with pytest.raises(HermesError, match=r"^pack is False in .*run.yaml and True here"):
        hermes.sft(*call, pack=True, max_steps=4, resume=True, **options)
    assert hermes.sft(*call, max_steps=4, resume=True, **options).steps == 4


def test_a_model_is_evaluated_continued_talked_to_and_converted_in_one_call_each(folder):
    scores = hermes.evaluate(folder / "run", folder / "book.txt", batch_size=np.int64(4))
    assert scores.perplexity == pytest.approx(np.exp(scores.val_loss))
    assert repr(scores).startswith(f"EvalResult(loss {scores.val_loss:.4f} nats per token, ")
    one, two = hermes.generate(folder / "run", "the", num_samples=2, max_tokens=5, seed=1)
    assert (one.seed, two.seed, one.tokens, one.finish_reason) == (1, 2, 5, "length")
    assert str(one) == hermes.load(folder / "run").generate("the", max_tokens=5, seed=1)
    talk = hermes.chat(folder / "run", max_tokens=4, seed=1)
    assert "".join(talk.say("the cat")) == talk.messages[-1]["content"]
    done = hermes.convert(folder / "run", folder / "converted", to="hf", backend="torch")
    assert done.path == folder / "converted"
    assert done.difference < 1e-5


def test_what_is_returned_is_read_at_a_glance(folder):
    result = train(folder, "glance", val_fraction=0.1)
    assert repr(result) == (
        f"TrainResult({folder / 'glance/step-00000004'}: step 4, finished, loss {result.loss:.4f}, "
        f"val_loss {result.val_loss:.4f}, val_bits_per_byte {result.val_bits_per_byte:.4f})"
    )
    assert isinstance(result, hermes.Result)
    model = hermes.load(folder / "run", "torch", "cpu")
    assert repr(model) == "Model(little, 13,392 parameters, 2 layers, torch on cpu)"
    assert repr(model.spec) == (
        "ModelSpec(little, 2 layers, hidden_size 16, vocab_size 280, max_seq_len 64)"
    )
    assert repr(model.tokenizer).startswith("Tokenizer(280 tokens, fingerprint ")


def test_the_library_speaks_of_arguments():
    from hermes.arguments import name_arguments

    values = {"keep_last": None, "resume": False, "compile": True, "tokenizer": None}
    for said, meant in {
        "keep fewer by --keep-last": "keep fewer by keep_last",
        "or pass --resume": "or pass resume=True",
        "leave out --no-compile": "leave out compile=False",
        "give --tokenizer FILE, or": "give tokenizer=FILE, or",
        "with --set KEY, or hermes --help": "with --set KEY, or hermes --help",
    }.items():
        assert name_arguments(said, values) == meant


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("the cat\nsat", "data is a text of 11 characters, not the name of a file; "),
        ("x" * 5000, "data is a text of 5,000 characters, not the name of a file; "),
        ("x" * 1000, "data is a text of 1,000 characters, not the name of a file; "),
        (
            "my password is: the cat sat",
            "data is a text of 27 characters, not the name of a file; ",
        ),
        (
            ["is it 1/2 or is it all of *?"],
            "data is a text of 28 characters, not the name of a file; ",
        ),
    ],
)
def test_a_text_given_as_data_is_known_and_not_repeated(folder, data, said):
    with pytest.raises(HermesError) as refused:
        hermes.train("nano", data, tokenizer=folder / "tokenizer.json", output=folder / "never")
    assert str(refused.value).startswith(said)
    assert len(str(refused.value)) < 150
