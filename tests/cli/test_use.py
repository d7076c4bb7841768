"""What a trained run is used for from the command line."""

import json
import sys
from pathlib import Path

import pytest

from hermes.tokenizer import train_tokenizer
from hermes_cli.main import run
from tests.cli.support import LITTLE, TEXT


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
    assert err == (f"Error: {tmp_path} is an empty folder; give a folder that hermes train wrote\n")


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
