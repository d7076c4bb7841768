"""`hermes train --checkpoint`, with --model as hermes-llm has it, and from a run's own options."""

import shutil
from pathlib import Path

import pytest

from hermes.training.metrics_file import read_metrics
from tests.cli.support import LITTLE, refuses

LINE = ("train", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--lr", "1e-5",
        "--seq-len", 16, "--batch-size", 4, "--max-steps", 2)  # fmt: skip


@pytest.fixture
def weights(trained):
    """Bare weights of 280 tokens, whose architecture lies nowhere beside them."""
    shutil.copy("run/step-00000004/model.safetensors", "pretrained.safetensors")
    return trained


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_bare_weights_are_named_by_the_model(weights, call, backend):
    line = (*LINE, "--checkpoint", "pretrained.safetensors", "--backend", backend)
    refuses(call, 1, "pretrained.safetensors holds weights only; name their model with --config",
            *line, "--output", "a")  # fmt: skip
    Path("more.mal").write_text(LITTLE.replace("num_layers: 1", "num_layers: 1 vocab_size: 999"))
    code, _, err = call(*line, "--model", "more.mal", "--output", "a", "--freeze-layers", 1)
    assert code == 0, err
    assert "vocab_size is 280, that of pretrained.safetensors; little has 999" in err
    # As from the whole checkpoint, whose architecture the model may name, too.
    line = (*LINE, "--checkpoint", "run/checkpoint_epoch_0.safetensors", "--backend", backend)
    code, _, err = call(*line, "--model", "little.mal", "--output", "b", "--freeze-layers", 1)
    assert code == 0, err
    found = [[one["loss"] for one in read_metrics(Path(name))] for name in "ab"]
    assert found[0] == found[1]
    code, _, err = call(*line, "--model", "nano", "--output", "c")
    assert code == 1
    assert "step-00000004 was written for another model: max_seq_len 32 there, 256 here" in err
    assert err.endswith("; name that one as the architecture, not nano, or none\n")


def test_a_bundled_name_is_an_architecture_of_weights(weights, call):
    line = (*LINE, "--checkpoint", "pretrained.safetensors", "--output", "a")
    code, _, err = call(*line, "--model", "nano")
    assert code == 1
    assert "pretrained.safetensors" in err
    assert "no tensor" in err or "has shape" in err
    assert not Path("a").exists()


def test_a_file_of_options_may_name_the_checkpoint(trained, call):
    Path("c.yaml").write_text("checkpoint: run\n")
    code, _, err = call(*LINE, "--config", "c.yaml", "--output", "a")
    assert code == 0, err
    # So has the run.yaml of such a run, by which it is repeated.
    code, _, err = call("train", "--config", "a/run.yaml", "--output", "b")
    assert code == 0, err
    first, second = ([one["loss"] for one in read_metrics(Path(name))] for name in "ab")
    assert first == second
    code, _, err = call("train", "--resume", "--output", "b", "--max-steps", 3)
    assert code == 0, err


@pytest.mark.parametrize("more", [["--train-tokenizer"], ["--vocab-size", 300]])
def test_what_only_a_new_model_has_is_refused(trained, call, more):
    refuses(call, 1, f"{more[0]} belongs to a new model; leave --checkpoint out",
            *LINE, "--checkpoint", "run", *more, "--output", "a")  # fmt: skip
