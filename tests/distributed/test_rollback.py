"""Two processes go back to a checkpoint together, and make the run of one."""

import pytest
from safetensors.numpy import load_file, save_file

from tests.distributed.support import MLX, hermes, metrics
from tests.training.support import SPEC, Runs, corpus_in

WORDS = [
    *("finetune", "--checkpoint", "model.safetensors", "--config", "model.mal"),
    *("--tokenizer", "base/tokenizer.json", "--data", "text.txt", "--seq-len", 16, "--seed", 5),
    *("--max-steps", 7, "--save-every", 3, "--lr", "3e-3", "--on-nonfinite", "rollback:1"),
    *("--device", "cpu", "--precision", "float32"),
]
TORCH = ["--backend", "torch", "--num-processes", 2]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model, one of whose tokens no arithmetic in float32 survives, and a text that has it."""
    folder = tmp_path_factory.mktemp("rollback")
    plain = SPEC.replace("tie_weights: true", "tie_weights: false scale: 2")
    path, tokenizer = corpus_in(folder)
    Runs((path, tokenizer), folder)("base", spec=plain, max_steps=1)
    (bad,) = tokenizer.encode("Q")
    weights = load_file(folder / "base" / "step-00000001" / "model.safetensors")
    weights["model.embed_tokens.weight"][bad] = 3e38
    save_file(weights, folder / "model.safetensors")
    (folder / "model.mal").write_text(plain.replace("vocab_size: 300", "vocab_size: 290"))
    words = path.read_text().split()
    for at in (50, 120, 121):
        words[at] = "Q"
    path.write_text(" ".join(words[:700]), encoding="utf-8")
    hermes(folder, *WORDS, "--output", "one", "--batch-size", 4)
    return folder


@pytest.mark.parametrize(
    "how",
    [
        MLX,
        pytest.param(TORCH, marks=pytest.mark.long),
        pytest.param([*TORCH, "--shard", "full"], marks=pytest.mark.long),
    ],
    ids=["mlx", "torch", "sharded"],
)
def test_two_processes_go_back_together(start, tmp_path, how):
    said = hermes(start, *WORDS, *how, "--output", tmp_path / "two", "--batch-size", 2)
    assert "so the run goes back to step 3 of 7 and on from sample" in said
    one, two = metrics(start / "one"), metrics(tmp_path / "two")
    jumps = [[line for line in lines if "rollbacks" in line] for lines in (one, two)]
    assert jumps[0] == jumps[1]
    assert len(jumps[0]) == 2
    losses = [{r["step"]: r["loss"] for r in lines if "loss" in r} for lines in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
