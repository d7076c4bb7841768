"""A plan of a run from Python and from the command line."""

import json
import subprocess
import sys

import pytest

import hermes
from hermes import mal
from hermes.errors import HermesError


def test_steps_hours_energy_and_price_follow_from_tokens_and_speed():
    found = hermes.plan(
        "nano", batch_size=4, seq_len=128, backend="torch", tokens=1e6, num_processes=2,
        memory=1, tokens_per_second=1000, price_per_hour=3, watts=100,
    )  # fmt: skip
    assert found.tokens_per_step == 4 * 2 * 128
    assert found.steps == 977  # 1e6 / 1024, rounded up
    assert found.hours == pytest.approx(977 * 1024 / 1000 / 3600)
    assert found.energy == pytest.approx(found.hours * 0.2)
    assert found.price == pytest.approx(found.hours * 3)
    assert found.fits
    assert found.available == 10**9


def test_hardware_says_memory_speed_power_and_backend():
    found = hermes.plan("llama-7b", precision="bf16", hardware="h200", max_steps=10, seq_len=2048)
    assert (found.backend, found.device, found.available) == ("torch", "cuda", 141 * 10**9)
    assert found.tokens_per_second == pytest.approx(0.35 * 989e12 / found.flops_per_token)
    assert not found.fits
    assert found.largest_batch < 32


def test_what_a_maker_does_not_publish_is_not_guessed():
    found = hermes.plan("nano", hardware="m3-max", max_steps=10)
    assert (found.backend, found.device, found.precision) == ("mlx", "gpu", "bfloat16")
    assert (found.tokens_per_second, found.hours, found.energy) == (None, None, None)
    given = hermes.plan("nano", hardware="m3-max", max_steps=10, tokens_per_second=1e3, watts=50)
    assert given.energy == pytest.approx(given.hours * 0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hardware": "h20"}, "hardware 'h20' is unknown; did you mean 'h200'?"),
        ({"hardware": "h200", "backend": "mlx"}, "that hardware is for backend 'torch', not 'mlx'"),
        ({"seq_len": 300}, "seq_len is 300, more than the model's max_seq_len 256"),
        ({"num_processes": 0}, "num_processes must be at least 1, got 0"),
        ({"backend": "numpy"}, "backend 'numpy' does not train"),
        ({"memory": -1.0}, "memory must be at least 0, got -1"),
        ({"tokens": "2 billion"}, "tokens is '2 billion'; expected a count above 0, such as 100M"),
        ({"tokens": 1e6, "max_steps": 3}, "tokens and max_steps are both given; keep one"),
        ({"seq_len": 8, "max_len": 8}, "seq_len and max_len, which is of pairs, are both given"),
        ({"max_len": 0}, "max_len must be at least 1, got 0"),
        ({"max_len": 300}, "max_len is 300, more than the model's max_seq_len 256; choose a"),
        ({"batch_size_schedule": "4"}, "batch_size_schedule is '4'; it must be STEP:SIZE"),
        ({"shard": "half"}, "shard is 'half'; it must be one of full, optimizer"),
        ({"shard": "full"}, "splits a model over several processes, and the plan is for one; give"),
        ({"shard": "full", "num_processes": 4, "shard_group": 3}, "and divide the 4 processes"),
        ({"shard": "full", "num_processes": 4, "shard_group": 0}, "shard_group is 0; it must be"),
        ({"shard": "full", "num_processes": 4, "shard_group": 1}, "shard_group is 1; it must be"),
        ({"backend": "mlx", "shard": "full"}, "whole in every process; leave shard out, or choose"),
        ({"hardware": "m3-max", "precision": "fp64"}, "mlx computes in float64 on CPUs alone"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message):
    with pytest.raises(HermesError) as error:
        hermes.plan("nano", **arguments)
    assert message in str(error.value)


def test_the_command_reads_flags_and_a_run_yaml(call, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: nano\nbatch_size: 4\nseq_len: 64\ndata: [book.txt]\nlr: 1e-3\n")
    line = ["plan", "--config", str(file), "--backend", "torch", "--memory", "2", "--json",
            "--set", "model.num_layers=3", "--tokens-per-second", "10"]  # fmt: skip
    code, out, _ = call(*line)
    found = json.loads(out)
    assert code == 0
    assert (found["batch_size"], found["seq_len"]) == (4, 64)
    assert found["parameters"] > hermes.plan("nano", backend="torch", memory=1).parameters
    assert found["memory"]["total"] == sum(
        found["memory"][part]
        for part in ("weights", "optimizer", "gradients", "activations", "logits", "update")
    )
    file.write_text("model: nano\nbatch_sizes: 4\n")
    code, _, err = call("plan", "--config", str(file))
    assert code == 1
    assert "unknown key 'batch_sizes'" in err
    code, out, _ = call("plan", "--model", "nano", "--backend", "torch", "--memory", "0.01")
    assert "does not fit" in out


def test_the_optimizer_is_planned_as_it_is_given(call, tmp_path):
    def plan(*line):
        code, out, err = call("plan", "--model", "nano", "--backend", "torch", "--json", *line)
        assert code == 0, err
        return json.loads(out)["memory"]["optimizer"]

    adamw = plan()
    assert plan("--optimizer", "lion") == plan("--moments", "bfloat16") == adamw // 2
    assert plan("--ema", "0.999") == adamw * 3 // 2
    assert plan("--group", "lm_head.*", "lr=1e-4") == adamw
    file = tmp_path / "r.yaml"
    file.write_text("model: nano\noptimizer: lion\nnum_gpus: 2\nmax_steps: 3\nbatch_size: 1\n")
    code, out, _ = call("plan", "--config", str(file), "--backend", "torch", "--json")
    assert json.loads(out)["memory"]["optimizer"] == adamw // 2
    assert json.loads(out)["processes"] == 2
    code, _, err = call("plan", "--model", "nano", "--group", "head.*", "lr=1")
    *_, said = err.splitlines()  # a busy machine says what it loads before
    assert (code, err.count("Error: ")) == (1, 1)
    assert said.startswith("Error: group 'head.*' matches no tensor that is trained")


def test_what_a_run_yaml_says_of_its_length_batches_and_frozen_tensors_is_planned(call, tmp_path):
    def plan(text, *line):
        (tmp_path / "r.yaml").write_text(f"model: nano\nseq_len: 64\n{text}")
        words = ["plan", "--config", str(tmp_path / "r.yaml"), "--backend", "torch", "--json"]
        code, out, err = call(*words, *line)
        assert code == 0, err
        return json.loads(out)

    found = plan("batch_size: 4\ntrain_tokens: 10000\nmax_steps: 0\n")
    assert (found["steps"], found["tokens"]) == (40, 40 * 256)  # 10,000 / 256, rounded up
    found = plan("batch_size: 4\ntrain_tokens: 0\nmax_steps: 3\n")
    assert (found["steps"], found["tokens"]) == (3, 3 * 256)
    assert plan("train_tokens: 10000\n", "--tokens", "20K")["tokens"] >= 20_000
    # Memory is that of the largest batch, and each step takes its own.
    grown = plan("batch_size: 2\nbatch_size_schedule: 10:8\nmax_steps: 15\n")
    assert grown["memory"] == plan("batch_size: 8\n")["memory"]
    assert grown["tokens"] == (10 * 2 + 5 * 8) * 64
    assert plan("batch_size_schedule: 0:2,10:8\n", "--tokens", "3840")["steps"] == 15
    frozen = plan("freeze: ['model.embed_tokens.*', 'model.layers.0.*']\n")
    assert frozen["trained"] == plan("freeze_layers: 1\n")["trained"] < frozen["parameters"]
    adapted = [plan(f"lora_rank: 4\n{more}")["trained"] for more in
               ("lora_targets: all\n", "lora_targets: q_proj\n", "dora: true\n")]  # fmt: skip
    assert adapted[1] < adapted[0] < adapted[2]


def test_the_architecture_is_that_of_the_model_that_a_run_starts_from(call, tmp_path):
    (tmp_path / "small.mal").write_text(mal.dumps(mal.load("nano")), encoding="utf-8")
    (tmp_path / "r.yaml").write_text(f"model: tiny\ncheckpoint: {tmp_path / 'small.mal'}\n")
    line = ["plan", "--config", str(tmp_path / "r.yaml"), "--backend", "torch", "--json"]
    assert json.loads(call(*line)[1])["model"] == "nano"
    assert json.loads(call(*line, "--model", "gpt2-small")[1])["model"] == "gpt2-small"


def test_a_dpo_run_is_planned_by_pairs(call, tmp_path):
    (tmp_path / "r.yaml").write_text("max_len: 64\nbatch_size: 4\nloss: ipo\nmax_steps: 2\n")
    line = ["plan", "--config", str(tmp_path / "r.yaml"), "--model", "nano", "--backend", "torch"]
    found = json.loads(call(*line, "--json")[1])
    assert found["memory"]["activations"] == pytest.approx(
        hermes.plan("nano", batch_size=8, seq_len=64, backend="torch").memory.activations, rel=0.1
    )
    assert (found["seq_len"], found["tokens"]) == (64, 2 * 8 * 64)


def test_a_plan_loads_no_framework():
    code = "import sys, hermes\nhermes.plan('nano')\nprint({'torch', 'mlx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_what_costs_little_has_digits():
    found = hermes.plan(
        "nano", max_steps=10, tokens_per_second=1e5, watts=70, price_per_hour=2, backend="torch",
        memory=1,
    )  # fmt: skip
    rows = dict(line.split(maxsplit=1) for line in repr(found).splitlines() if "  " in line)
    assert (rows["energy"], rows["price"]) == ("1.6e-05 kWh", "0.00046")


@pytest.mark.parametrize(
    ("tokens", "speed", "said"),
    [
        (20_480_000, 1000.0, "5.69 hours"),
        (1_024_000, 1000.0, "17.1 minutes"),
        (10_240, 1000.0, "10 seconds"),
        (1024, 0.25, "1.14 hours"),
    ],
)
def test_a_short_run_has_digits_of_its_time_and_a_slow_one_of_its_speed(tokens, speed, said):
    found = hermes.plan(
        "nano", tokens=tokens, tokens_per_second=speed, batch_size=4, seq_len=256, backend="torch"
    )
    assert said in repr(found)
    assert "speed  0 tokens" not in " ".join(repr(found).split())
    assert ("0.25 tokens/s" in repr(found)) is (speed < 1)


def test_attention_is_planned_as_it_runs_with_and_without_the_compiler(call, tmp_path):
    """GPT-2's dropout has a kernel that is compiled; without it each layer keeps its weights."""

    def plan(*line):
        given = ["--model", "gpt2-small", "--hardware", "h200", "--batch-size", "4", *line]
        code, out, err = call("plan", *given)
        assert code == 0, err
        return out

    assert "every query and key" not in plan()
    assert ", with a tensor of every query and key in 12 layers" in plan("--no-compile")
    fused, unfused = (json.loads(plan("--json", *line)) for line in ([], ["--no-compile"]))
    scores = 4 * 12 * 256 * 256  # B, H, T, T
    more = unfused["memory"]["activations"] - fused["memory"]["activations"]
    assert more > 12 * scores * 4
    assert (fused["unfused_layers"], unfused["unfused_layers"]) == (0, 12)
    file = tmp_path / "run.yaml"
    file.write_text("model: gpt2-small\ncompile: false\n")
    code, out, _ = call("plan", "--config", str(file), "--hardware", "h200")
    assert "12 layers" in out
