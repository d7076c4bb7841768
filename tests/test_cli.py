"""The command line as a whole: help, versions, exit codes, and one line for every mistake."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hermes.report.metrics import read_metrics
from hermes.tokenizer import train_tokenizer
from hermes_cli.main import COMMANDS, run

HERMES = Path(sys.executable).parent / "hermes"
TEXT = "the cat sat on a mat and then it ran off to see what else there was " * 60
LITTLE = """model little { max_seq_len: 32 hidden_size: 16 num_layers: 1
  block: { attention: { num_heads: 2 } ffn: { hidden_dim: 24 } } }"""


@pytest.fixture(scope="module")
def tokenizer_text():
    return train_tokenizer([TEXT], vocab_size=280).to_json()


@pytest.fixture
def here(tmp_path, monkeypatch, tokenizer_text):
    """A working directory with a text, a tokenizer and a little model in it."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("tokenizer.json").write_text(tokenizer_text, encoding="utf-8")
    Path("little.mal").write_text(LITTLE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run a command line in this process: exit code, standard output, standard error."""

    def one(*arguments):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return one


TRAIN = ("train", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--model", "little.mal",
         "--output", "run", "--seq-len", 16, "--batch-size", 4)  # fmt: skip


@pytest.fixture
def trained(here, call):
    """The same with a run of four updates in run/."""
    code, _, err = call(*TRAIN, "--max-steps", 4, "--val-fraction", 0.1, "--lr", 1e-2)
    assert code == 0, err
    return here


def refuses(call, code, message, *arguments):
    got, out, err = call(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert (got, lines, out) == (code, [f"Error: {message}"], "")
    assert "Traceback" not in err


def test_every_command_has_help_that_shows_its_defaults(call):
    for name in COMMANDS:
        code, out, _ = call(name, "--help")
        assert code == 0
        assert out.startswith(f"Usage: hermes {name} ")
    _, out, _ = call("train", "--help")
    flat = " ".join(out.split())
    for default in ("[default: 0.0003]", "[default: tiny]", "[default: checkpoints]",
                    "[default: standard input]", "[default: float32]"):  # fmt: skip
        assert default in flat


def test_the_options_of_train_have_the_recipes_defaults(call):
    from hermes.recipe import Recipe
    from hermes.same_run import flat
    from hermes_cli.asked import RECIPE
    from hermes_cli.settings import option_names
    from hermes_cli.train import train

    fields = flat(Recipe())
    checked = 0
    for name, option in option_names(train).items():
        if name in RECIPE and name != "seq_len" and isinstance(option.default, int | float | str):
            assert option.default == fields[RECIPE[name]], name
            checked += 1
    assert checked >= 14


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_answers_at_once(arguments):
    """Well under 0.3 s on a quiet machine; processor time, so that a busy one does not count."""
    spent = []
    for _ in range(3):
        before = os.times().children_user
        subprocess.run([HERMES, *arguments], check=True, capture_output=True)
        spent.append(os.times().children_user - before)
    assert min(spent) < 0.3


def test_an_unknown_command_or_option_is_met_with_the_nearest(call):
    refuses(call, 2, "hermes: no such command 'trian'; did you mean 'train'? (see hermes --help)",
            "trian")  # fmt: skip
    code, _, err = call("train", "--batchsize", 3)
    assert code == 2
    assert err.count("\n") == 1
    assert "no such option '--batchsize'" in err
    assert "--batch-size" in err


@pytest.mark.parametrize("group", [[], ["mal"], ["checkpoint"], ["conformance"]], ids=str)
def test_a_group_without_a_command_shows_its_help(call, group):
    code, _, said = call(*group)
    assert code == 2
    assert said.startswith(f"Usage: {' '.join(['hermes', *group])} [OPTIONS] COMMAND")
    assert said.endswith("\n")


def test_usage_is_one_line_even_where_click_says_it_in_three(call):
    refuses(call, 2, "hermes convert: missing option '--to'; choose from: hermes, hf "
            "(see hermes convert --help)", "convert", "a", "b")  # fmt: skip


def test_an_option_of_the_wrong_kind_is_usage(call):
    code, _, err = call("train", "--lr", "fast")
    assert (code, err.count("\n")) == (2, 1)
    assert "'--lr': 'fast' is not a valid float" in err


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["--lr", "-0.1"], 1, "lr must be above 0, got -0.1"),
        (["--lr", "nan"], 1, "lr must be above 0, got nan"),
        (["--seq-len", "64"], 1,
         "seq_len is 64, more than the model's max_seq_len 32; choose a shorter --seq-len or a "
         "longer model"),
        (["--batch-size", "0"], 1, "batch_size must be at least 1, got 0"),
        (["--backend", "jax"], 1, "backend 'jax' is unknown; known are mlx, numpy, torch"),
        (["--precision", "float8"], 1,
         "precision is 'float8'; it must be one of float32, tf32, bfloat16, float16, float64"),
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
        (["--lr", "1", "--set", "lr=2"], 1, "lr is given twice, as an option and with --set"),
        (["--num-gpus", "0"], 1,
         "--num-gpus and --num-processes must be at least 1, --max-restarts at least 0, "
         "--peer-timeout above 0; got 0, 1, 0 and 45"),
        (["--config", "config.json"], 1,
         "config.json: --config takes a run's options as .yaml (a .json is a model's config; an "
         "architecture to train goes to --model)"),
        (["--keep-last", "0"], 1, "--keep-last must be at least 1, got 0"),
        (["--keep-best", "val_loss"], 1,
         "--keep-best val_loss needs sequences held out: --val-fraction"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_in_an_option_is_one_line(here, call, changes, code, message):
    if changes[0] in ("--data", "--set", "--config", "--lr", "--keep-last", "--keep-best",
                      "--num-gpus"):  # fmt: skip
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
         "latin.txt: not UTF-8 at byte 3 (0xe9); convert it to UTF-8"),
        ("a.jsonl", b'{"text": "one"}\n{"body": "two"}\n',
         "a.jsonl:2: no text field 'text', only 'body'; name the one that holds text"),
        ("short.txt", b"the cat",
         "the text has {n} tokens; 1 sequence of 16 needs 17: give more text or a shorter "
         "--seq-len"),
        ("a.pdf", b"%PDF",
         "a.pdf: unknown ending '.pdf'; known are .csv, .json, .jsonl, .txt: rename it, or say "
         "which format it has"),
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


def test_an_output_with_a_run_in_it_asks_for_resume(trained, call):
    refuses(call, 1, "run 'run' already has step 4; choose another directory or pass --resume",
            *TRAIN)  # fmt: skip


def test_a_fresh_model_takes_the_size_of_the_tokenizer_and_says_so(here, call):
    _, _, err = call(*TRAIN, "--max-steps", 1)
    assert "vocab_size is 280, the tokenizer's; little has 32000\n" in err


def test_a_finished_run_is_done_in_one_line(trained, call):
    code, out, err = call("train", "--resume", "--output", "run")
    assert (code, out) == (0, "")
    assert err == "run run is finished at step 4; nothing is left to do\n"


def test_nothing_to_resume_is_said_and_starts_fresh(here, call):
    code, _, err = call(*TRAIN, "--max-steps", 1, "--resume")
    assert code == 0
    assert "nothing to resume in run; the run starts fresh\n" in err
    assert Path("run/step-00000001").is_dir()


def test_auto_resume_is_one_command_that_begins_a_run_and_goes_on_with_it(here, call):
    arguments = [*TRAIN, "--max-steps", 2, "--auto-resume"]
    for words in ("the run starts fresh", "run run is finished at step 2"):
        code, _, err = call(*arguments)
        assert code == 0, err
        assert words in err
    code, _, err = call(*arguments[:-2], 3, "--auto-resume")
    assert "going on from step 2, written by torch\n" in err


def test_a_run_without_its_metrics_says_so_when_it_goes_on(here, call):
    assert call(*TRAIN, "--max-steps", 2)[0] == 0
    metrics = here / "run/metrics.jsonl"
    metrics.unlink()
    going = ("train", "--resume", "--output", "run", "--max-steps")
    said = "run/metrics.jsonl is gone, and with it the lines up to step 2; a new one begins"
    code, _, err = call(*going, 3)
    assert (code, err.splitlines().count(said)) == (0, 1)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [3]
    assert "is gone" not in call(*going, 4)[2]


def test_a_run_that_was_begun_and_never_saved_begins_again_as_it_was(here, call):
    """Killed before its first checkpoint: its file still says with what it was begun."""
    tokenizer = ["--train-tokenizer", "--tokenizer", "own.json", "--vocab-size", 270]
    code, _, err = call(*TRAIN[:3], *tokenizer, *TRAIN[5:], "--max-steps", 2, "--lr", 1e-2,
                        "--set", "optimizer.beta2=0.98")  # fmt: skip
    assert code == 0, err
    record = read_metrics(Path("run"))
    shutil.rmtree("run/step-00000002")
    code, _, err = call("train", "--auto-resume", "--output", "run")
    assert code == 0, err
    again = read_metrics(Path("run"))
    assert [line["loss"] for line in again] == [line["loss"] for line in record]
    progress = json.loads(Path("run/step-00000002/progress.json").read_text())
    assert progress["recipe"]["optimizer"]["beta2"] == 0.98


def test_another_batch_is_allowed_by_a_flag_and_said(trained, call):
    resume = ["train", "--resume", "--output", "run", "--max-steps", 6, "--batch-size", 8]
    code, _, err = call(*resume)
    assert code == 1
    assert "keep the product, or pass --allow-batch-change: from step 5 on" in err
    code, _, err = call(*resume, "--allow-batch-change")
    assert code == 0, err
    assert "from step 5 on an update takes 8 sequences instead of 4, at learning rates" in err
    assert [line["tokens"] for line in read_metrics(Path("run")) if "loss" in line] == [
        64, 128, 192, 256, 384, 512,
    ]  # fmt: skip


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_deterministic_run_stays_one_when_it_goes_on(here, call, backend):
    how = ["--device", "cpu", "--backend", backend]
    code, _, err = call(*TRAIN, "--max-steps", 2, "--deterministic", *how)
    assert code == 0, err
    assert "deterministic: true  # command line" in Path("run/run.yaml").read_text()
    code, _, err = call("train", "--resume", "--output", "run", "--max-steps", 3, *how)
    assert code == 0, err
    assert "deterministic: true  # run/run.yaml" in Path("run/run.yaml").read_text()


def test_a_run_goes_on_with_its_own_options(trained, call):
    code, _, err = call("train", "--resume", "--output", "run", "--max-steps", 6, "--backend",
                        "mlx")  # fmt: skip
    assert code == 0
    assert "the run ends at step 6, where it would have ended at 4\n" in err
    assert "going on from step 4, written by torch\n" in err
    lines = read_metrics(Path("run"))
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert {line["lr"] for line in lines if "lr" in line} == {1e-2}


def test_a_runs_file_gives_the_same_run_again(trained, call):
    code, _, err = call("train", "--config", "run/run.yaml", "--output", "again")
    assert code == 0, err
    first, second = (Path(name, "metrics.jsonl").read_text() for name in ("run", "again"))

    def losses(text):
        return [json.loads(line).get("loss") for line in text.splitlines()]

    assert losses(first) == losses(second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1e-4\nlr: 1e-3\n", "c.yaml:2: key 'lr' is given twice"),
        ("a: &x 1\nb: *x\n", "c.yaml:1: aliases are not read; write the value out"),
        ("btch_size: 3\n", "c.yaml: unknown key 'btch_size'; did you mean 'batch_size'?"),
        ("batch_size: 3.5\n", "c.yaml: batch_size: '3.5' is not a valid integer"),
        ("batch_size: [3]\n", "c.yaml: batch_size takes a value, not a list or a mapping"),
        ("- 1\n", "c.yaml: expected options as 'key: value', found a sequence"),
        ("lr: !!float 3\n", "c.yaml:1: tags are not read; remove 'tag:yaml.org,2002:float'"),
        ("a: [[[[[[[[[1]]]]]]]]]\n", "c.yaml:1: nested more than 8 deep"),
        ("lr: {\n", "c.yaml:2: not YAML: expected the node content, but found '<stream end>'"),
        ("lr: -1\n", "lr must be above 0, got -1.0"),
    ],
)
def test_a_mistake_in_a_file_of_options_is_one_line(here, call, text, message):
    Path("c.yaml").write_text(text)
    refuses(call, 1, message, *TRAIN, "--config", "c.yaml")


def test_numbers_of_a_file_of_options_are_numbers_however_written(here, call):
    Path("c.yaml").write_text("lr: 1e-4\nmax-steps: 1\nset: {optimizer.beta2: 0.9}\n")
    code, _, err = call(*TRAIN, "--config", "c.yaml")
    assert code == 0, err
    (line,) = read_metrics(Path("run"))
    assert line["lr"] == 1e-4
    assert "optimizer.beta2: 0.9\n" in Path("run/run.yaml").read_text()


def test_the_command_line_wins_over_the_file(here, call):
    Path("c.yaml").write_text("lr: 1e-4\nmax_steps: 1\n")
    call(*TRAIN, "--config", "c.yaml", "--lr", "0.5")
    (line,) = read_metrics(Path("run"))
    assert line["lr"] == 0.5
    record = Path("run/run.yaml").read_text()
    assert "lr: 0.5  # command line\n" in record
    assert "max_steps: 1  # c.yaml\n" in record


def test_the_architecture_is_edited_with_set(here, call):
    call(*TRAIN, "--max-steps", 1, "--set", "model.num_layers=3")
    assert "num_layers: 3" in Path("run/step-00000001/model.mal").read_text()


def test_a_run_that_bursts_ends_with_70(here, call):
    code, _, err = call(*TRAIN, "--max-steps", 50, "--lr", "1e38", "--grad-clip", 0)
    assert code == 70
    assert err.splitlines()[-1].startswith("Error: step ")


def process(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [HERMES, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def wait_for_step(metrics, step):
    for _ in range(1200):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= step:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not begin")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_finishes_the_update_saves_and_says_how_to_go_on(here, call, number):
    training = process(*TRAIN, "--max-steps", 100_000, "--log-every", 1, "--save-every", 5)
    wait_for_step(here / "run/metrics.jsonl", 5)
    training.send_signal(number)
    _, err = training.communicate(timeout=60)
    assert training.returncode == 75
    last = err.splitlines()[-1]
    step = max(int(path.name[5:]) for path in Path("run").glob("step-*"))
    assert last == (
        f"stopped at step {step:,} of 100,000 and saved; go on with: "
        "hermes train --resume --output run"
    )
    code, _, _ = call("train", "--resume", "--output", "run", "--max-steps", step + 1)
    assert code == 0
    steps = [
        json.loads(line)["step"] for line in Path("run/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, step + 2))


def test_a_terminal_that_closes_twice_over_saves_once_and_ends_with_75(here):
    training = process(*TRAIN, "--max-steps", 100_000, "--log-every", 1)
    wait_for_step(here / "run/metrics.jsonl", 5)
    for _ in range(3):
        training.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    training.communicate(timeout=60)
    assert training.returncode == 75
    assert len(list(Path("run").glob("step-*"))) == 1


def test_under_nohup_a_terminal_that_closes_ends_nothing(here):
    training = process(*TRAIN, "--max-steps", 60, "--log-every", 1, "--save-every", 0,
                       preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # fmt: skip
    wait_for_step(here / "run/metrics.jsonl", 5)
    training.send_signal(signal.SIGHUP)
    training.communicate(timeout=60)
    assert training.returncode == 0
    assert (here / "run/step-00000060").is_dir()


def test_a_reader_that_goes_away_is_no_error(trained):
    command = f"'{HERMES}' generate -c run -p the --num-samples 40 | head -c 5"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) == 5


def test_training_outlives_the_reader_of_its_lines(here):
    """`hermes train ... 2>&1 | head -3`: the run ends as it should, without its display."""
    begin = " ".join(map(str, TRAIN))
    command = f"'{HERMES}' {begin} --max-steps 40 --log-every 1 2>&1 | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert (here / "run/step-00000040").is_dir()


def test_a_broken_pipe_that_is_not_standard_output_is_a_failure(call, monkeypatch):
    def breaks(*arguments):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("hermes_cli.main.import_module", breaks)
    assert call("doctor") == (74, "", "Error: broken pipe\n")


def test_a_warning_is_a_line_too(here, call, monkeypatch):
    """Of a backend that goes on without its compiler, as of any other."""
    import warnings

    from hermes import run_setup

    plain = run_setup.prepare

    def warned(*arguments):
        warnings.warn("torch.compile failed, so the run goes on without it: no compiler")
        return plain(*arguments)

    monkeypatch.setattr("hermes.run.prepare", warned)
    code, _, err = call(*TRAIN, "--max-steps", 1)
    assert code == 0
    assert "Warning: torch.compile failed, so the run goes on without it: no compiler\n" in err
