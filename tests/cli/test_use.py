"""What a trained run is used for from the command line, and how runs begin from other input."""

import json
import sys
from pathlib import Path

import pytest

from hermes.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from hermes.training.plot import Curve
from hermes_cli.main import run
from tests.cli.support import LITTLE, TEXT, piped


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of 30 updates on torch in it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "little.mal").write_text(LITTLE, encoding="utf-8")
    train_tokenizer([TEXT], vocab_size=280).save(folder / "tokenizer.json")
    arguments = ("train", "--data", folder / "text.txt", "--tokenizer", folder / "tokenizer.json",
                 "--model", folder / "little.mal", "--output", folder / "run", "--seq-len", 16,
                 "--batch-size", 4, "--max-steps", 30, "--val-fraction", 0.1,
                 "--eval-every", 10, "--lr", 1e-2)  # fmt: skip
    assert run([str(argument) for argument in arguments]) == 0
    return folder


@pytest.mark.parametrize("options", [(), ("--temperature", 0), ("--top-k", 5, "--top-p", 0.9)])
def test_the_same_seed_gives_the_same_text_on_both_backends(trained, call, options):
    texts = set()
    for backend in ("torch", "mlx"):
        code, out, _ = call("generate", "--checkpoint", trained / "run", "--prompt", "the cat",
                            "--max-tokens", 24, "--seed", 3, "--backend", backend,
                            *options)  # fmt: skip
        assert code == 0
        texts.add(out)
    (text,) = texts
    assert len(text) > 10


def test_the_text_that_streams_is_the_text_of_the_library(trained, call):
    import hermes

    _, out, _ = call("generate", "-c", trained / "run", "-p", "the", "--max-tokens", 20,
                     "--seed", 4)  # fmt: skip
    assert out == hermes.load(trained / "run").generate("the", max_tokens=20, seed=4) + "\n"


def test_json_is_a_line_per_text_and_each_seed_is_its_own(trained, call):
    many = ("generate", "-c", trained / "run", "-p", "the", "--max-tokens", 9, "--json")
    _, out, _ = call(*many, "--num-samples", 3, "--seed", 7)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["seed"] for line in lines] == [7, 8, 9]
    assert all(set(line) == {"text", "tokens", "finish_reason", "seed"} for line in lines)
    assert lines[0]["tokens"] == 9
    assert lines[0]["finish_reason"] == "length"
    _, alone, _ = call(*many, "--seed", 9)
    assert json.loads(alone) == lines[2]


def test_a_prompt_too_long_is_refused_with_both_numbers(trained, call):
    code, out, err = call("generate", "-c", trained / "run", "-p", "q" * 40)
    assert (code, out) == (1, "")
    heading, error = err.splitlines()
    assert heading.startswith("model little: ")
    assert error == (
        "Error: the prompt has 40 tokens, more than the model's max_seq_len 32; shorten it"
    )


def test_a_text_stops_where_the_context_is_full(trained, call):
    _, out, _ = call("generate", "-c", trained / "run", "-p", "the", "--max-tokens", 99,
                     "--json")  # fmt: skip
    line = json.loads(out)
    assert line["finish_reason"] in ("length", "stop")
    assert line["tokens"] <= 32


def test_an_empty_prompt_goes_on_from_the_end_of_another_text(trained, call):
    import hermes

    model = hermes.load(trained / "run")
    ids = list(model.tokens([model.tokenizer.eos_id], max_tokens=9, seed=1))
    code, out, _ = call("generate", "-c", trained / "run", "--max-tokens", 9, "--seed", 1)
    assert (code, out) == (0, model.tokenizer.decode(ids) + "\n")


def test_weights_alone_are_read_with_a_config_and_a_tokenizer(trained, call, tmp_path):
    """--checkpoint X.safetensors --config C.json --tokenizer T.json, and a MAL for the config."""
    weights = tmp_path / "x.safetensors"
    folder = trained / "run/step-00000030"
    weights.write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "c.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "c.mal").write_bytes((folder / "model.mal").read_bytes())
    common = ("--prompt", "the", "--max-tokens", 12, "--tokenizer", trained / "tokenizer.json")
    _, whole, _ = call("generate", "--checkpoint", trained / "run", *common)
    for config in ("c.json", "c.mal"):
        code, out, err = call("generate", "--checkpoint", weights, "--config", tmp_path / config,
                              *common)  # fmt: skip
        assert (code, out) == (0, whole), err
    code, _, err = call("generate", "--checkpoint", weights, *common)
    assert code == 1
    assert "--config" in err


def test_a_tokenizer_that_does_not_fit_is_refused_with_both_sizes(trained, call, tmp_path):
    big, weights = tmp_path / "big.json", tmp_path / "x.safetensors"
    train_tokenizer([TEXT + "zebra zebra quagga quagga " * 9], vocab_size=300).save(big)
    folder = trained / "run/step-00000030"
    weights.write_bytes((folder / "model.safetensors").read_bytes())
    code, _, err = call("generate", "-c", trained / "run", "-t", big, "-p", "a")
    assert (code, err) == (
        1,
        f"Error: the tokenizer given has 300 tokens and is not the one of {folder}, which has 280; "
        "leave it out to use that one\n",
    )
    code, _, err = call("generate", "-c", weights, "--config", folder / "model.mal", "-t", big,
                        "-p", "a")  # fmt: skip
    assert (code, err) == (
        1,
        "Error: the tokenizer has 300 tokens and the model 280; use the tokenizer that the model "
        "was trained with\n",
    )


def test_no_checkpoint_is_one_line(call, tmp_path):
    code, _, err = call("generate", "-c", tmp_path / "none", "-p", "a")
    assert code == 1
    assert err.startswith(f"Error: {tmp_path / 'none'}: no such file or folder")
    assert err.count("\n") == 1


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_eval_gives_loss_perplexity_bits_and_tokens(trained, call, backend):
    code, out, _ = call("eval", "-c", trained / "run", "--data", trained / "text.txt", "--json",
                        "--backend", backend)  # fmt: skip
    numbers = json.loads(out)
    assert code == 0
    assert list(numbers) == ["val_loss", "perplexity", "bits_per_byte", "tokens"]
    from math import exp, log

    assert numbers["perplexity"] == pytest.approx(exp(numbers["val_loss"]))
    nats = numbers["val_loss"] * numbers["tokens"]
    assert numbers["bits_per_byte"] == pytest.approx(nats / log(2) / len(TEXT), rel=1e-2)


def test_eval_has_a_result_for_each_file_and_for_all(trained, call, tmp_path):
    for name, text in (("a.txt", TEXT[:900]), ("b.txt", TEXT[1000:1400])):
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = ("eval", "-c", trained / "run", "--data", tmp_path / "a.txt", tmp_path / "b.txt")
    together = json.loads(call(*command, "--json")[1])
    assert [one.pop("name") for one in together["files"]] == [
        str(tmp_path / "a.txt"), str(tmp_path / "b.txt"),
    ]  # fmt: skip
    alone = [
        json.loads(call("eval", "-c", trained / "run", "--data", tmp_path / name, "--json")[1])
        for name in ("a.txt", "b.txt")
    ]
    assert together["files"] == alone
    assert together["tokens"] == alone[0]["tokens"] + alone[1]["tokens"]
    nats = sum(one["val_loss"] * one["tokens"] for one in alone)
    assert together["val_loss"] == pytest.approx(nats / together["tokens"])
    _, out, _ = call(*command)
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["loss"] + [
        f"{one['val_loss']:.4f}" for one in (*alone, together)
    ]
    assert lines[3].endswith("  all")


def test_eval_opens_every_file_before_it_evaluates_one(trained, call):
    code, out, err = call("eval", "-c", trained / "run", trained / "text.txt", trained / "none.txt")
    assert (code, out) == (1, "")
    assert "none.txt" in err
    assert "evaluating" not in err


def test_eval_refuses_options_of_tasks_without_them(trained, call):
    code, out, err = call("eval", "-c", trained / "run", trained / "text.txt", "--limit", 5)
    assert (code, out) == (1, "")
    assert "--limit belongs to --tasks" in err


def test_eval_says_what_tasks_need(trained, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as where it is not installed
    code, _, err = call("eval", "-c", trained / "run", "--tasks", "arc_easy")
    assert code == 1
    assert "pip install 'hermes-llm[tasks]'" in err
    assert err.count("\n") == 1


def test_eval_does_not_depend_on_the_batch(trained, call):
    arguments = ("eval", "-c", trained / "run", "--data", trained / "text.txt", "--json")
    losses = [
        json.loads(call(*arguments, "--batch-size", size)[1])["val_loss"] for size in (1, 7, 500)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_plot_draws_in_the_terminal_and_writes_a_picture(trained, call):
    code, out, err = call("plot", trained / "run")
    assert code == 0
    assert out.splitlines()[0] == "loss (nats per token); o is validation"
    assert out.count("o") > 3
    picture = trained / "run/plots/loss.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert err == f"wrote {picture}\n"


def test_plot_of_no_run_is_one_line(call, tmp_path):
    code, _, err = call("plot", tmp_path)
    assert code == 1
    assert err == (
        f"Error: {tmp_path}: no metrics.jsonl here; give a folder that hermes train wrote\n"
    )


CURVE = Curve("run", [(s, 8 - s / 10) for s in range(1, 41)], [(20, 6.5)], [(20, "torch -> mlx")])


def test_train_tokenizer_writes_a_tokenizer_and_how_it_was_made(call, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.jsonl").write_text('{"text": "na\\u00efve caf\\u00e9"}\n')
    output = tmp_path / "t.json"
    code, _, err = call("train-tokenizer", "--input", tmp_path / "a.txt", tmp_path / "b.jsonl",
                        "--output", output, "--vocab-size", 290)  # fmt: skip
    assert code == 0, err
    record = json.loads((tmp_path / "t.manifest.json").read_text())
    assert [Path(entry["path"]).name for entry in record["inputs"]] == ["a.txt", "b.jsonl"]
    assert record["settings"]["vocab_size"] == 290
    assert record["vocab_size"] == 290


def test_train_tokenizer_takes_special_tokens_of_ones_own(call, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    own = [part for name in ("<|eot_id|>", "<|eos|>") for part in ("--special-token", name)]
    code, _, err = call("train-tokenizer", "-i", tmp_path / "a.txt", "-o", tmp_path / "t.json",
                        "--vocab-size", 290, *own)  # fmt: skip
    assert code == 0, err
    made = Tokenizer.load(tmp_path / "t.json")
    assert [made.get_token_bytes(i).decode() for i in sorted(made.special_ids)] == [
        *SPECIAL_TOKENS,
        "<|eot_id|>",
    ]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ((), "byte-level BPE"),
        (("--byte-fallback",), "BPE with byte fallback"),
        (("--model-type", "unigram", "--byte-fallback"), "Unigram with byte fallback"),
        (("--model-type", "unigram"), "Unigram"),
    ],
)
def test_train_tokenizer_makes_the_kind_that_is_asked_for(call, tmp_path, options, kind):
    (tmp_path / "a.txt").write_text(TEXT)
    code, _, err = call("train-tokenizer", "-i", tmp_path / "a.txt", "-o", tmp_path / "t.json",
                        "--vocab-size", 300, *options)  # fmt: skip
    assert code == 0, err
    made = Tokenizer.load(tmp_path / "t.json")
    assert made.kind == kind
    assert made.decode(made.encode(TEXT)) == TEXT


def test_train_tokenizer_refuses_before_it_begins(call, tmp_path):
    code, _, err = call("train-tokenizer", "-i", "x.txt", "-o", tmp_path / "none/t.json")
    assert (code, err) == (
        74,
        f"Error: cannot write {tmp_path}/none/t.json: there is no folder {tmp_path}/none; "
        "make it first\n",
    )


def test_text_may_come_on_standard_input(trained, tmp_path):
    """Spooled where a tokenizer is trained on it first; its vocabulary said where it came short."""
    done = piped(TEXT, "train", "--train-tokenizer", "--vocab-size", 999, "--model",
                 trained / "little.mal", "--output", tmp_path / "run", "--seq-len", 16,
                 "--max-steps", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning: the text yields" in done.stderr
    again = piped(TEXT, "train", "--resume", "--output", tmp_path / "run", "--max-steps", 3)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run/step-00000003").is_dir()
    other = piped(TEXT[9:], "train", "--resume", "--output", tmp_path / "run", "--max-steps", 4)
    assert other.returncode == 1
    assert "resume with the data that the run began with" in other.stderr


def test_a_trained_tokenizer_is_kept_where_it_was_asked_for(trained, call, tmp_path):
    base = (
        "train",
        "-d",
        trained / "text.txt",
        "-m",
        trained / "little.mal",
        "--seq-len",
        16,
        "--train-tokenizer",
        "-v",
        280,
        "-t",
        tmp_path / "t.json",
        "--max-steps",
        1,
    )
    code, _, err = call(*base, "-o", tmp_path / "run")  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "t.json").exists()
    made = (tmp_path / "t.json").read_bytes()
    manifest = json.loads((tmp_path / "t.manifest.json").read_text())
    for folder in (tmp_path / "run", tmp_path / "run" / "step-00000001"):
        assert json.loads((folder / "tokenizer.manifest.json").read_text()) == manifest
    code, _, err = call(*base, "-o", tmp_path / "other")
    assert code == 0
    fits = f"{tmp_path / 't.json'} fits the data and the settings, so no tokenizer is trained"
    assert fits in err.splitlines()
    code, _, err = call(*base, "-v", 281, "-o", tmp_path / "third")
    assert (code, err.splitlines()[-1]) == (
        1,
        f"Error: {tmp_path / 't.json'} is there already and was trained with --vocab-size 280, and "
        "not 281; leave --train-tokenizer out to use it, or give --force-retrain-tokenizer to "
        "replace it",
    )
    assert (tmp_path / "t.json").read_bytes() == made
    code, _, err = call(*base, "-v", 281, "-o", tmp_path / "third", "--force-retrain-tokenizer")
    assert code == 0, err
    assert Tokenizer.load(tmp_path / "t.json").vocab_size == 281
    (tmp_path / "t.manifest.json").unlink()
    code, _, err = call(*base, "-o", tmp_path / "fourth")
    assert "has no manifest beside it that says how it was trained; leave" in err


def test_a_tokenizer_that_fits_is_kept_by_train_tokenizer(call, tmp_path):
    text = tmp_path / "a.txt"
    text.write_text(TEXT)
    command = ("train-tokenizer", "-i", text, "-o", tmp_path / "t.json", "-v", 290)
    assert call(*command)[0] == 0
    first = (tmp_path / "t.manifest.json").read_bytes()
    code, _, err = call(*command)
    assert (code, err) == (
        0,
        f"{tmp_path / 't.json'} fits the text and the settings, so it is kept\n",
    )
    assert (tmp_path / "t.manifest.json").read_bytes() == first
    assert "tokens, from" in call(*command, "--force-retrain-tokenizer")[2]
    text.write_text(TEXT + "more")
    assert "tokens, from" in call(*command)[2]
    assert (
        json.loads((tmp_path / "t.manifest.json").read_text())["inputs"]
        != json.loads(first)["inputs"]
    )
    code, _, err = call(*command[:-2], "-v", 291, "--preset", "gpt-2", "--split", tmp_path / "gpt2")
    assert code == 0, err
    again = Tokenizer.load(tmp_path / "gpt2" / "vocab.json")
    assert again.fingerprint == Tokenizer.load(tmp_path / "t.json").fingerprint


def test_everything_is_made_from_text_and_nothing_that_is_whole_twice(trained, call, tmp_path):
    """One command line: a tokenizer, the tokens of its text, and the run, each said."""
    (tmp_path / "raw.txt").write_text((trained / "text.txt").read_text())
    (tmp_path / "run.yaml").write_text(
        f"model: {trained / 'little.mal'}\nseq_len: 16\nvocab_size: 280\nmax_steps: 2\n"
        f"train_tokenizer: true\ntokenizer: {tmp_path / 't.json'}\n"
        f"cache_dir: {tmp_path / 'cache'}\n"
    )
    command = ("train", "--data", tmp_path / "raw.txt", "--train-tokenizer",
               "--config", tmp_path / "run.yaml", "--resume", "-o")  # fmt: skip
    code, _, err = call(*command, tmp_path / "run")
    assert code == 0, err
    assert "training a tokenizer on the data" in err
    made = [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").rglob("*.bin"))]
    code, _, err = call(*command, tmp_path / "other")
    assert code == 0, err
    assert "fits the data and the settings, so no tokenizer is trained" in err
    assert (
        f"the tokens of the text are in {tmp_path / 'cache'}, so it is not tokenized again" in err
    )
    assert made == [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").rglob("*.bin"))]
    code, _, err = call(*command, tmp_path / "run")
    assert code == 0, err
    assert "is finished" in err
    models = [
        (tmp_path / run / "step-00000002/model.safetensors").read_bytes()
        for run in ("run", "other")
    ]
    assert models[0] == models[1]


def test_doctor_names_versions_backends_and_devices(call):
    code, out, _ = call("doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["backends"]["torch"]["installed"]
    assert found["backends"]["numpy"]["devices"] == ["cpu"]
    assert found["default_backend"] in ("torch", "mlx")
    assert found["machine"]["memory"] >= found["machine"]["available"]
    assert isinstance(found["problems"], list)
    code, out, _ = call("doctor")
    assert code == 0
    for heading in ("C++ compiler: ", "memory: ", "disk free: ", "BLAS: ", "cores: ", "-> "):
        assert f"\n{heading}" in out


def test_quickstart_goes_from_text_to_proof_and_hands_over_half_way(call, tmp_path, monkeypatch):
    monkeypatch.setattr("hermes_cli.commands.quickstart.STEPS", 12)
    monkeypatch.chdir(tmp_path)
    code, out, err = call("quickstart")
    assert code == 0, err
    assert sorted(p.name for p in Path("quickstart").glob("step-*")) == [
        "step-00000006",
        "step-00000012",
    ]
    assert Path("quickstart/plots/loss.png").exists()
    assert "torch -> mlx" in out or "mlx -> torch" in out
    assert "the text of seed 1 is the same on" in out
    assert "the unigram entropy of the same tokens is" in out
    distances = [float(line.split(": ")[1]) for line in out.splitlines()[-3:]]
    assert all(0 < d < 3e-6 for d in distances)
    lines = [json.loads(line) for line in Path("quickstart/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    Path("quickstart/thesis.txt").write_text("mine")
    code, _, err = call("quickstart")
    assert (code, err) == (
        1,
        "Error: output 'quickstart' has 'thesis.txt' in it, which no earlier quickstart wrote; "
        "choose another with --output\n",
    )
    assert Path("quickstart/step-00000012").exists()
