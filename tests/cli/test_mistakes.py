"""One line for every mistake, with its exit code."""

import os
import sys
from pathlib import Path

import pytest

from hermes.interface import find_backend
from hermes.options import COMMANDS
from hermes.options.synonyms import OWN_COMMANDS
from hermes_cli.main import COMMANDS as MAIN_COMMANDS
from tests.cli.support import TRAIN, refuses

ADVICE = "name the one that holds text by --text-field; --skip-bad-records leaves such records out"


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["--lr", "-0.1"], 1, "--lr must be above 0, got -0.1"),
        (["--lr", "nan"], 1, "--lr must be above 0, got nan"),
        (["--seq-len", "64"], 1,
         "--seq-len is 64, more than the model's max_seq_len 32; choose a shorter --seq-len or a "
         "longer model"),
        (["--batch-size", "0"], 1, "--batch-size must be at least 1, got 0"),
        (["--backend", "jax"], 1, "backend 'jax' is unknown; known are mlx, numpy, torch"),
        (["--precision", "float8"], 1,
         "--precision is 'float8'; it must be one of auto, float32, tf32, bfloat16, float16, "
         "float64"),
        (["--tokenizer", "none.json"], 1,
         "none.json: no such tokenizer; make one with 'hermes train-tokenizer', or while training "
         "with --train-tokenizer"),
        (["--data", "none.txt"], 1, "none.txt: no such file; check the name"),
        (["--model", "smol-lama"], 1,
         "there is no model or file 'smol-lama'; did you mean 'smol-llama'?"),
        (["--set", "model.num_layer=2"], 1,
         "num_layer: unknown key 'num_layer' in model; did you mean 'num_layers'?"),
        (["--set", "optimizer.beta3=0.9"], 1,
         "--set optimizer.beta3: there is no such setting; did you mean 'optimizer.beta2'?"),
        (["--set", "min_lr_ratio=low"], 1, "--set min_lr_ratio: expected a number, got 'low'"),
        (["--set", "lr"], 1, "--set lr: expected KEY=VALUE, as in model.num_layers=2"),
        (["--lr", "1", "--set", "lr=2"], 1, "--lr is given twice, as an option and with --set"),
        (["--num-gpus", "0"], 1,
         "--num-gpus must be at least 1, got 0"),
        (["--peer-timeout", "-1"], 1,
         "--peer-timeout must be above 0 and at most 1,000,000 seconds, got -1"),
        (["--max-restarts", "-1"], 1, "--max-restarts must be at least 0, got -1"),
        (["--log-every", "0"], 1, "--log-every must be at least 1, got 0"),
        (["--config", "config.json"], 1,
         "config.json: --config takes a run's options as .yaml (a .json is a model's config; an "
         "architecture to train goes to --model)"),
        (["--keep-last", "0"], 1, "--keep-last must be at least 1, got 0"),
        (["--keep-best", "val_loss"], 1,
         "--keep-best val_loss needs sequences held out: --val-fraction or --val-data"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_in_an_option_is_one_line(here, call, changes, code, message):
    if changes[0] in ("--data", "--set", "--config", "--lr", "--keep-last", "--keep-best",
                      "--num-gpus", "--peer-timeout", "--max-restarts", "--log-every"):  # fmt: skip
        base = [a for a in TRAIN if changes[0] != "--data" or a not in ("--data", "text.txt")]
    else:
        place = TRAIN.index(changes[0]) if changes[0] in TRAIN else None
        base = TRAIN if place is None else TRAIN[:place] + TRAIN[place + 2 :]
    refuses(call, code, message, *base, *changes)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.txt", b"", "empty.txt: empty, there is no text in it; leave it out or fill it"),
        ("latin.txt", b"caf\xe9 au lait",
         "latin.txt:1: not UTF-8 at byte 3 (0xe9); convert it to UTF-8"),
        ("a.jsonl", b'{"text": "one"}\n{"body": "two"}\n',
         f"a.jsonl:2: no text field 'text', only 'body'; {ADVICE}"),
        ("chats.jsonl", b'{"messages": []}\n',
         "chats.jsonl:1: no text field 'text', only 'messages'; conversations are for hermes sft; "
         f"else {ADVICE}"),
        ("pairs.jsonl", b'{"chosen": "a", "rejected": "b"}\n',
         "pairs.jsonl:1: no text field 'text', only 'chosen', 'rejected'; pairs are for hermes "
         f"dpo; else {ADVICE}"),
        ("short.txt", b"the cat",
         "the text has {n} tokens; 1 sequence of 16 needs 17: give more text or a shorter "
         "--seq-len"),
        ("a.pdf", b"%PDF",
         "a.pdf: unknown ending '.pdf'; known are .csv, .json, .jsonl, .parquet, .tsv, .txt, also "
         "with .gz, .xz or .zst behind it: rename it, or say by --format which format it has"),
    ],
)  # fmt: skip
def test_bad_data_is_one_line_that_names_the_place(here, call, name, data, message):
    Path(name).write_bytes(data)
    if "{n}" in message:
        from hermes.tokenizer import Tokenizer

        message = message.format(n=len(Tokenizer.load("tokenizer.json").encode("the cat")) + 1)
    base = [name if argument == "text.txt" else argument for argument in TRAIN]
    refuses(call, 1, message, *base)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model m { hiden_size: 4 }",
         "bad.mal:1:11: unknown key 'hiden_size' in model; did you mean 'hidden_size'?"),
        ("model m { block: b }", "bad.mal:1:18: block 'b' is not defined"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_architecture_shows_the_line_and_a_caret(here, call, text, message):
    Path("bad.mal").write_text(text)
    code, _, err = call(*[("bad.mal" if a == "little.mal" else a) for a in TRAIN])
    first, source, caret = err.splitlines()
    assert code == 1
    assert first == f"Error: {message}"
    assert source == text
    assert caret.strip() == "^"
    assert not Path("run").exists()


def test_heads_that_do_not_divide_are_named_with_both_numbers(here, call):
    refuses(call, 1,
            "block.attention.num_heads='3': num_heads is 3, which does not divide hidden_size 16; "
            "choose another or set head_dim",
            *TRAIN, "--set", "model.block.attention.num_heads=3")  # fmt: skip


def test_a_missing_backend_says_what_to_install(here, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx", None)
    for name in [n for n in sys.modules if n.startswith(("mlx.", "hermes_mlx"))]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = call(*TRAIN, "--backend", "mlx")
    assert code == 1
    assert err.startswith("Error: backend 'mlx' is not installed (")
    assert err.endswith("); pip install 'hermes-llm[mlx]'\n")


@pytest.mark.parametrize("device", ["cuda:99", "tpu"])
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_device_that_the_machine_lacks_is_refused_before_data_is_read(
    trained, call, backend, device
):
    """As a name on its own, and as one of a library that was built without such devices."""
    devices = ", ".join(find_backend(backend).devices())
    message = f"{backend} has no device {device!r} here; it has {devices}"
    if backend == "mlx":
        message = f"mlx has no device {device!r}; what it can have is gpu and cpu"
    where = ("--backend", backend, "--device", device)
    Path("bad.txt").write_bytes(b"\xff")  # no text, as whoever reads it finds
    train = [{"text.txt": "bad.txt", "run": "new"}.get(one, one) for one in TRAIN]
    refuses(call, 1, message, *train, *where)
    refuses(call, 1, message, "eval", "--checkpoint", "run", "--data", "bad.txt", *where)
    refuses(call, 1, message, "chat", "--checkpoint", "run", *where)


def test_files_that_are_not_there_are_refused_before_a_backend_is_loaded(here, call, monkeypatch):
    """Which takes seconds; so does a missing tokenizer, where the data brings none."""

    def fail(name):
        raise AssertionError(f"{name} is loaded")

    monkeypatch.setattr("hermes.interface.find_backend", fail)
    no_tokenizer = [a for a in TRAIN if a not in ("--tokenizer", "tokenizer.json")]
    missing = "none.txt: no such file; check the name"
    refuses(call, 1, missing, *no_tokenizer, "none.txt")
    refuses(call, 1, missing, *TRAIN, "--val-data", "none.txt")
    refuses(call, 1, missing, "train", "--data", "text.txt:0.5", "--data", "none.txt:0.5")
    refuses(call, 1, "no tokenizer: give --tokenizer FILE, or --train-tokenizer to train one on "
            "the data", *no_tokenizer)  # fmt: skip
    gone = "gone: no such file or folder; check the name"
    for command in (("eval", "text.txt"), ("generate",), ("chat",), ("serve",),
                    ("sft", "--data", "text.txt"), ("finetune", "--data", "text.txt")):  # fmt: skip
        refuses(call, 1, gone, *command, "--checkpoint", "gone")
    message = "gone has no checkpoint to resume, and a new run needs --tokenizer FILE or "
    again = ("train", "--data", "text.txt", "--output", "gone", "--resume")
    refuses(call, 1, f"{message}--train-tokenizer", *again)
    Path("gone").mkdir()
    for option, message in [
        (("--temperature", -1), "--temperature must be at least 0, got -1.0"),
        (("--logit-bias", "x"), "--logit-bias needs ID=NUMBER, such as 50256=-100, got 'x'"),
        (("--dry-multiplier", -1), "--dry-multiplier must be at least 0, got -1.0"),
    ]:
        refuses(call, 1, message, "generate", "--checkpoint", "gone", *option)
    refuses(call, 1, missing, "eval", "--checkpoint", "gone", "text.txt", "none.txt")


def test_a_bundled_architecture_is_no_model_with_weights(here, call):
    message = (
        "nano is a bundled architecture, which has no weights; train one by hermes train --model "
        "nano, or give a model that is trained"
    )
    refuses(call, 1, message, "generate", "--checkpoint", "nano")
    refuses(call, 1, message, "finetune", "--checkpoint", "nano", "--data", "text.txt")
    refuses(call, 1, message, "convert", "nano", "out", "--to", "hf")


def test_a_model_of_the_hub_is_named_where_its_prefix_is_left_out(here, call):
    message = "o/r: no such file or folder; check the name, or give hf://o/r for a model on the Hub"
    refuses(call, 1, message, "info", "o/r")
    refuses(call, 1, message, "mal", "show", "o/r")
    refuses(call, 1, message, "generate", "--checkpoint", "o/r")
    refuses(call, 1, "there is no file 'o/r.mal'", "info", "o/r.mal")


def test_of_a_file_that_is_no_mal_some_mistakes_are_shown(here, call):
    Path("prose.mal").write_text("* * *\n" * 40)
    code, _, err = call("mal", "check", "prose.mal")
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert code == 1
    assert len(lines) == 21
    assert lines[-1] == "Error: prose.mal: 100 more mistakes"


def test_checkpoint_says_what_is_no_folder(here, call):
    for command in ("list", "verify"):
        refuses(call, 1, "gone: no such file or folder; check the name", "checkpoint", command,
                "gone")  # fmt: skip
        refuses(call, 1, "text.txt is a file; give the folder of a checkpoint or run", "checkpoint",
                command, "text.txt")  # fmt: skip


def test_plan_takes_its_model_like_info(call):
    assert call("plan", "nano", "--json", "--hardware", "h200")[1] == call(
        "plan", "--model", "nano", "--json", "--hardware", "h200"
    )[1]  # fmt: skip
    message = "give one model, not two: MODEL or --model"
    refuses(call, 1, message, "plan", "nano", "--model", "tiny")


def test_a_picture_that_is_wanted_and_is_not_is_refused(call):
    message = "--png and --no-png are both given; keep one"
    refuses(call, 1, message, "plot", "run", "--png", "a.png", "--no-png")


def test_a_command_by_another_tools_name_is_suggested_by_its_own(call):
    for typed, own in [("export", "convert"), ("verify", "checkpoint verify"), ("fuse", "merge"),
                       ("evaluate", "eval"), ("fine-tune", "sft"), ("help", "--help")]:  # fmt: skip
        said = f"Error: hermes: no such command {typed!r}; hermes calls it {own!r}"
        assert call(typed, "x") == (2, "", f"{said} (see hermes --help)\n")
    near = "Error: hermes: no such command 'trian'; did you mean 'train'? (see hermes --help)\n"
    assert call("trian") == (2, "", near)


def test_every_command_by_another_name_is_one_of_hermes():
    for typed, own in OWN_COMMANDS.items():
        assert own in COMMANDS or own in {"--help", "--version"}, own
        assert typed not in MAIN_COMMANDS


def test_a_file_to_write_that_is_a_folder_is_refused_before_the_work(here, call):
    Path("folder").mkdir()
    message = "cannot write folder: it is a folder; name a file in it"
    refuses(call, 74, message, "train-tokenizer", "--input", "none.txt", "--output", "folder")


def test_an_address_where_something_is_written_is_refused_and_no_folder_of_its_name_is_made(
    trained, call
):
    """As s3://bucket/run, where a run would be left on this machine alone."""
    where = "s3://bucket/run"

    def refuses_address(what, *arguments):
        end = "are written to this machine or to what is mounted on it; name a path there"
        refuses(call, 1, f"{where} is an address, and {what} {end}", *arguments)

    base = [(where if one == "run" else one) for one in TRAIN]
    refuses_address("runs", *base)
    new = [("new" if one == "run" else one) for one in TRAIN]
    refuses_address("files", *new, "--log-file", where, "--max-steps", 1)
    prepare = ("prepare", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--output")
    refuses_address("tokens", *prepare, where)
    refuses_address("tokens", *new, "--cache-dir", where)
    convert = ("convert", "run", where, "--to", "hf")
    assert f"Error: {where} is an address, and models are written to" in call(*convert)[2]
    assert not Path("s3:").exists()
    model = f"{where} is an address, and models are read from files or from the Hub, as "
    refuses(call, 1, f"{model}hf://OWNER/REPO; download it first", "eval", "-c", where, "a.txt")
    message = f"{where} is an address; download the tokenizer, or name one on the Hub as hf://OWNER"
    refuses(call, 1, f"{message}/REPO", *new[:3], "--tokenizer", where, *new[5:])


def test_records_of_another_kind_name_the_command_that_takes_them(place, trained, call):
    pairs, chats = place / "prefs.jsonl", place / "chat.jsonl"
    tune = ("--checkpoint", "run", "--output", "o", "--device", "cpu")
    _, _, err = call("sft", "--data", pairs, *tune)
    assert "no field 'completion', only 'prompt', 'chosen', 'rejected'; pairs are for hermes" in err
    _, _, err = call("dpo", "--data", chats, *tune)
    assert "'completion'; conversations are for hermes sft" in err


def test_ids_that_no_token_has_are_refused(trained, call):
    write = ("generate", "--checkpoint", "run", "--prompt", "a", "--device", "cpu")
    beyond = "must be below the 280 of the tokens, got 280"
    assert f"Error: --stop-id {beyond}" in call(*write, "--stop-id", 280)[2]
    bias = "must be of ids below the 280 of the tokens, got 281"
    assert f"Error: --logit-bias {bias}" in call(*write, "--logit-bias", "281=5")[2]


def test_a_file_that_is_no_certificate_says_what_makes_one(here, call):
    made = "hermes conformance run --json FILE writes one"
    Path("a.png").write_bytes(b"\x89PNG")
    why = "a.png: not a certificate: not UTF-8 at byte 0"
    refuses(call, 1, f"{why}; {made}", "conformance", "verify", "a.png")
    why = "text.txt: not a certificate: not JSON (Expecting value: line 1 column 1 (char 0))"
    refuses(call, 1, f"{why}; {made}", "conformance", "verify", "text.txt")


def test_without_a_tokenizer_the_option_is_named(here, call):
    refuses(call, 1,
            "no tokenizer: give --tokenizer FILE, or --train-tokenizer to train one on the data",
            *[a for a in TRAIN if a not in ("--tokenizer", "tokenizer.json")])  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_output_is_an_io_error(here, call):
    Path("shut").mkdir(mode=0o500)
    code, _, err = call(*[("shut/run" if a == "run" else a) for a in TRAIN])
    assert code == 74
    assert err == "Error: cannot write to shut/run: permission denied\n"


def test_an_output_under_a_file_is_an_io_error(here, call):
    base = [("text.txt/run" if argument == "run" else argument) for argument in TRAIN]
    refuses(call, 74, "cannot write to text.txt/run: not a directory", *base)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1e-4\nlr: 1e-3\n", "c.yaml:2: key 'lr' is given twice"),
        ("a: &x 1\nb: *x\n", "c.yaml:1: aliases are not supported; write the value out"),
        ("btch_size: 3\n", "c.yaml: unknown key 'btch_size'; did you mean 'batch_size'?"),
        ("batch_size: 3.5\n", "c.yaml: batch_size: '3.5' is not a valid integer"),
        ("batch_size: [3]\n", "c.yaml: batch_size takes a value, not a list or a mapping"),
        ("- 1\n", "c.yaml: expected options as 'key: value', found a sequence"),
        ("lr: !!float 3\n", "c.yaml:1: tags are not supported; remove 'tag:yaml.org,2002:float'"),
        ("a: [[[[[[[[[1]]]]]]]]]\n", "c.yaml:1: nested more than 8 deep"),
        ("", "c.yaml has no options; leave out --config, or give a file that has some"),
        ("lr: {\n", "c.yaml:2: not YAML: expected the node content, but found '<stream end>'"),
        (
            f"batch_size: {'9' * 5000}\n",
            f"c.yaml: batch_size: '{'9' * 40}...' is not a valid integer",
        ),
        ("lr: -1\n", "--lr must be above 0, got -1.0"),
    ],
)
def test_a_mistake_in_a_file_of_options_is_one_line(here, call, text, message):
    Path("c.yaml").write_text(text)
    refuses(call, 1, message, *TRAIN, "--config", "c.yaml")


def test_a_warning_is_a_line_too(here, call, monkeypatch):
    """Of a backend that goes on without its compiler, as of any other."""
    import warnings

    from hermes.training import run

    plain = run.prepare_new

    def warned(*arguments):
        warnings.warn("torch.compile failed, so the run continues without it: no compiler")
        return plain(*arguments)

    monkeypatch.setattr("hermes.training.run.prepare_new", warned)
    code, _, err = call(*TRAIN, "--max-steps", 1)
    assert code == 0
    assert "Warning: torch.compile failed, so the run continues without it: no compiler\n" in err
    monkeypatch.setattr(warnings, "filters", [("error", None, UserWarning, None, 0)])
    message = (
        "torch.compile failed, so the run continues without it: no compiler (a warning, which "
        "PYTHONWARNINGS makes an error)"
    )
    refuses(call, 1, message, *TRAIN, "--max-steps", 1, "--output", "other")


def test_a_working_folder_that_is_gone_is_one_line(tmp_path, monkeypatch, call):
    """In it torch's BLAS ends the process, with a mistake's exit code."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    message = "the working folder was deleted or moved away; change to one that exists"
    refuses(call, 74, message, "plan", "--model", "nano")


def test_an_empty_run_yaml_is_named(trained, call):
    """As a power failure may leave it on a file system that reorders."""
    Path("run/run.yaml").write_text("")
    refuses(
        call, 1,
        "run/run.yaml is empty, as a power failure may leave it; remove it, and give the run's "
        "options once more with --resume",
        "train", "--resume", "--output", "run",
    )  # fmt: skip
    Path("run/run.yaml").write_bytes(b"\0" * 512)
    code, _, err = call("train", "--resume", "--output", "run")
    assert code == 1
    assert err.startswith("Error: run/run.yaml: not YAML: ")
    Path("run/run.yaml").unlink()
    assert call(*TRAIN, "--max-steps", 5, "--val-fraction", 0.1, "--lr", 1e-2, "--resume")[0] == 0
