"""`hermes recipe`: a run worked out from a size is a file that trains; so are the bundled ones."""

import re
import shlex
from pathlib import Path

import pytest

import hermes
from hermes import mal
from hermes.errors import HermesError
from hermes.formatting import format_with_unit
from hermes.model_info.datasheets import BY_SHORT_NAME
from hermes.options import get_options
from hermes.storage.strict_yaml import read_text_mapping
from hermes.training.metrics_file import read_metrics
from tests.packages import ROOT

RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
TINY = ["--params", "1M", "--tokens", "20k", "--vocab-size", "280", "--seq-len", "64"]
# A bundled model at two layers and a small width, with the tokenizer of the test.
LITTLE = {
    "num_layers": 2,
    "hidden_size": 48,
    "block.attention.num_heads": 2,
    "block.attention.num_kv_heads": 1,
    "block.ffn.hidden_dim": 64,
    "vocab_size": 280,
}


def test_every_size_has_a_recipe():
    assert [path.stem for path in RECIPES] == [
        *("llama-1b", "llama-22m", "llama-2b", "llama-4b", "smol-llama"),
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_bundled_recipe_is_what_its_command_makes(path, call):
    """Its memory and hours, too; if a rule has changed, run the command in its first line."""
    text = path.read_text(encoding="utf-8")
    command = text.splitlines()[0].removeprefix("# hermes ")
    code, out, _ = call(*shlex.split(command))
    assert code == 0
    assert out == text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_bundled_recipe_fits_as_the_plan_says(path, call):
    words = shlex.split(path.read_text(encoding="utf-8").splitlines()[0])
    code, out, _ = call(
        "plan", "--config", str(path), "--hardware", words[words.index("--device") + 1]
    )
    assert code == 0
    assert ": fits" in out
    memory = next(line for line in path.read_text().splitlines() if "memory of a process" in line)
    assert memory.split(": ")[1].split(" of ")[0] in out
    steps = read_text_mapping(path)["max_steps"]
    assert f"{int(steps):,}" in out
    if "8" in words:
        assert "8 processes" in out


def test_the_page_has_their_numbers():
    page = (ROOT / "examples" / "recipes" / "README.md").read_text(encoding="utf-8")
    for path in RECIPES:
        text = path.read_text(encoding="utf-8")
        row = next(line for line in page.splitlines() if line.startswith(f"| [{path.name}]"))
        for pattern in (r"([\d,]+) parameters", r"([\d,]+) tokens, 20", r"time: ([\d.,]+ hours)"):
            found = re.search(pattern, text)
            assert (found[1] if found else "not known") in row


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_bundled_recipe_trains(path, backend, call, here):
    edits = [f"--set=model.{key}={value}" for key, value in LITTLE.items()]
    code, _, err = call(
        *("train", "--config", str(path), "--data", "text.txt", "--tokenizer", "tokenizer.json"),
        *("--output", "run", "--backend", backend, "--device", "cpu", "--num-gpus", "1", *edits),
        *("--max-steps", "3", "--warmup-steps", "1", "--batch-size", "2", "--grad-accum", "2"),
        *("--seq-len", "32"),
    )
    assert code == 0, err
    losses = [line["loss"] for line in read_metrics(Path("run")) if "loss" in line]
    assert len(losses) == 3


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_bundled_recipe_trains_at_its_full_width(path, backend, call, here):
    """One layer of it: as in the short test, with as many numbers in a matrix as it has."""
    code, _, err = call(
        *("train", "--config", str(path), "--data", "text.txt", "--tokenizer", "tokenizer.json"),
        *("--output", "run", "--backend", backend, "--device", "cpu", "--num-gpus", "1"),
        *("--set=model.num_layers=1", "--set=model.vocab_size=280", "--max-steps", "2"),
        *("--warmup-steps", "1", "--batch-size", "1", "--grad-accum", "1", "--seq-len", "32"),
    )
    assert code == 0, err
    assert sum("loss" in line for line in read_metrics(Path("run"))) == 2


def test_a_run_of_any_size_is_written_and_trains(call, here):
    line = ["recipe", *TINY, "--device", "cpu", "--memory", "2", "--output", "r.yaml"]
    code, out, err = call(*line)
    assert (code, out, err) == (0, "", "wrote r.yaml\n")
    assert Path("r.yaml").read_text().startswith(f"# {shlex.join(['hermes', 'recipe', *TINY[:2]])}")
    train = ["train", "--config", "r.yaml", "--data", "text.txt", "--tokenizer", "tokenizer.json",
             "--output", "run"]  # fmt: skip
    code, out, _ = call(*train, "--print-config")
    assert code == 0
    lr = next(row for row in out.splitlines() if row.startswith("lr: "))
    assert lr.startswith("lr: 0.00234 ")
    assert lr.split("# ")[1].startswith("r.yaml:")
    code, out, _ = call("plan", "--config", "r.yaml", "--memory", "2", "--backend", "torch")
    assert ": fits" in out
    code, _, err = call(*train, "--max-steps", "4", "--warmup-steps", "1")
    assert (code, "Error" in err) == (0, False)
    spec = mal.load(Path("run").resolve() / "step-00000004")
    assert (spec.num_layers, spec.hidden_size, spec.vocab_size) == (4, 128, 280)


def test_python_has_the_same():
    found = hermes.make_recipe(params=10**8, tokens=2e9, device="h200", num_processes=2)
    assert found.plan.processes == 2
    assert found.plan.fits
    assert found.plan.tokens == pytest.approx(2e9, rel=0.001)
    assert repr(found) == found.text
    assert f"{format_with_unit(found.plan.memory.total, 'B')} of 141 GB" in found.text
    micro = found.recipe.batch_size * found.recipe.grad_accum * 2 * 2048
    assert micro == found.plan.tokens_per_step == 2**18


def test_a_run_that_is_too_large_is_split_further(call):
    """It recomputes activations, then it is sharded; and where nothing helps it is refused."""
    found = hermes.make_recipe(model="llama-2b", device="a100", memory=45)
    assert found.placement.grad_checkpoint
    assert "grad_checkpoint: true" in found.text
    found = hermes.make_recipe(model="llama-7b", device="h200", num_processes=8)
    assert found.placement.shard == "full"
    with pytest.raises(HermesError, match="75% of what l4 has, with any micro-batch"):
        hermes.make_recipe(model="llama-7b", device="l4")


def test_every_device_has_its_datasheet():
    choices = get_options("recipe")["device"].choices
    assert choices == (*BY_SHORT_NAME, "cpu")
    assert all(name in get_options("plan")["hardware"].help for name in BY_SHORT_NAME)


def test_a_model_of_any_path_is_quoted_where_yaml_needs_it(call, tmp_path):
    folder = tmp_path / "a: b #c"
    folder.mkdir()
    (folder / "m.mal").write_text(mal.dumps(mal.load("nano")), encoding="utf-8")
    file = tmp_path / "r.yaml"
    line = ["recipe", "--tokens", "1M", "--output", str(file), "--memory", "2", "--model"]
    assert call(*line, str(folder / "m.mal"))[0] == 0
    assert read_text_mapping(file)["model"] == str(folder / "m.mal")
    assert call(*line, "nano")[0] == 0
    assert "\nmodel: nano\n" in file.read_text()


def test_a_step_of_less_than_a_sequence_is_not_called_the_rules(call):
    line = ["recipe", "--params", "1M", "--vocab-size", "280", "--memory", "2", "--device", "cpu"]
    for length, said in (("1024", "1,024 tokens a step, one sequence, more than 0.2920 C^0.3271"),
                         ("256", "256 tokens a step, 0.2920 C^0.3271")):  # fmt: skip
        assert said in call(*line, "--tokens", "300", "--seq-len", length)[1]


def test_a_short_run_has_digits_of_its_time(call):
    code, out, _ = call("recipe", *TINY, "--device", "h200")
    assert code == 0
    assert re.search(r"# time: [\d.]*[1-9]\S* seconds at 35% of the h200's peak", out)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "give one of --params, --depth and --model, got none of them"),
        (["--params", "1M", "--depth", "2"], "got --params and --depth"),
        (["--params", "1Q"], "params is '1Q'; expected a count above 0"),
        (["--depth", "2", "--device", "h20"], "hardware 'h20' is unknown; did you mean 'h200'?"),
        (["--depth", "2", "--optimizer", "lion"], "no rule for the learning rate of 'lion'"),
        (["--model", "nano", "--seq-len", "512"], "--seq-len is 512, more than the model's"),
        (["--depth", "2", "--num-processes", "0"], "--num-processes must be at least 1, got 0"),
        (
            ["--depth", "12", "--device", "h200", "--num-processes", "1000000"],
            "processes; choose at most --num-processes 241",
        ),
        (["--depth", "2", "--seq-len", "0"], "--seq-len must be at least 1, got 0"),
        (["--model", "nano", "--seq-len", "-1"], "--seq-len must be at least 1, got -1"),
    ],
)
def test_a_mistake_is_one_sentence(line, message, call):
    code, out, err = call("recipe", *line)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err
