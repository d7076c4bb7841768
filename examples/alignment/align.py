"""From text to a model that answers briefly: train, sft, dpo, and what each has changed.

    python align.py OUTPUT [torch|mlx ...]

Every step is a command of hermes, printed before it runs. After sft and after dpo the model is
asked the held-out questions, and two rates are measured: how often its answer is short, which is
the rule that the preferences follow, and how often it fits, that is, names a place where one was
asked for. results.json and alignment.png say what came of it on each backend.
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from data import KINDS, write

from hermes.chat import Chat
from hermes.model import choose_backend
from hermes.sampling import Sampling
from hermes.start import beginning

SHORT = 4  # words, at most
STEPS = {
    "base": (
        "train --data {data}/world.txt --tokenizer {data}/tokenizer.json --model {here}/model.mal "
        "--output {out}/base --seq-len 64 --batch-size 16 --max-steps 150 --lr 3e-3 "
        "--schedule cosine --warmup-steps 20"
    ),
    "sft": (
        "sft --checkpoint {out}/base --data {data}/chat.jsonl --output {out}/sft --seq-len 96 "
        "--batch-size 8 --epochs 25 --lr 2e-3 --schedule cosine --warmup-steps 10"
    ),
    "dpo": (
        "dpo --checkpoint {out}/sft --data {data}/prefs.jsonl --output {out}/dpo --max-len 64 "
        "--batch-size 8 --epochs 2 --lr 1e-4 --beta 0.1 --val-fraction 0.2 --eval-every 5"
    ),
}


def hermes(command: str) -> None:
    """Run a command of hermes, as a user would."""
    print(f"$ hermes {command}", flush=True)
    subprocess.run(["hermes", *shlex.split(command)], check=True)


def measure(checkpoint: Path, questions: Path, backend: str) -> dict[str, float]:
    """Ask every question five times: the shares of short answers, and of those to the point."""
    begun = beginning(checkpoint)
    model = choose_backend(backend).build(begun.spec, begun.params)
    short = fits = asked = 0
    for line in questions.read_text().splitlines():
        fact = json.loads(line)
        for _ in range(5):
            sampling = Sampling(temperature=1.0)
            talk = Chat(model, begun.encoder, sampling=sampling, max_tokens=40, seed=asked)
            answer = "".join(talk.say(fact["prompt"]))
            short += len(answer.split()) <= SHORT
            fits += any(value in answer for value in KINDS[fact["kind"]][0])
            asked += 1
    return {"short": short / asked, "fits": fits / asked}


def align(out: Path, data: Path, backend: str) -> dict[str, object]:
    """All steps on one backend; what was measured."""
    began = time.perf_counter()
    rates = {}
    for name, command in STEPS.items():
        here = Path(__file__).parent
        hermes(command.format(out=out, data=data, here=here) + f" --backend {backend}")
        if name != "base":
            rates[name] = measure(out / name, data / "held-out.jsonl", backend)
            print(f"{backend} after {name}: {rates[name]}", flush=True)
    lines = [json.loads(line) for line in (out / "dpo/metrics.jsonl").read_text().splitlines()]
    held_out = [line for line in lines if "val_accuracy" in line]
    return {
        "after sft": rates["sft"],
        "after dpo": rates["dpo"],
        "first loss": lines[0]["loss"],
        "held-out accuracy": held_out[-1]["val_accuracy"],
        "held-out margin": [[line["step"], line["val_reward_margin"]] for line in held_out],
        "seconds": round(time.perf_counter() - began),
    }


def plot(results: dict[str, dict], path: Path) -> None:
    """The held-out margin over the updates of dpo, and both rates before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for backend, found in results.items():
        steps, margins = zip(*found["held-out margin"], strict=True)
        left.plot(steps, margins, marker="o", label=backend, alpha=0.7)
    left.set(xlabel="update of dpo", ylabel="held-out reward margin (nats)")
    left.legend()
    for i, found in enumerate(results.values()):
        for j, rate in enumerate(("short", "fits")):
            heights = [found[when][rate] for when in ("after sft", "after dpo")]
            places = [j * 2.4 + 0.35 * i, j * 2.4 + 1 + 0.35 * i]
            right.bar(places, heights, 0.32, color=f"C{i}", alpha=1 - 0.4 * j)
    right.set(ylim=(0, 1.05), ylabel="share of answers to held-out questions")
    right.set_xticks(
        [0.17, 1.17, 2.57, 3.57], ["short\nsft", "short\ndpo", "fits\nsft", "fits\ndpo"]
    )
    figure.savefig(path, dpi=110)


def main(output: Path, backends: list[str]) -> None:
    """The example, on each backend."""
    data = output / "data"
    data.mkdir(parents=True)
    write(data)
    hermes(
        f"train-tokenizer --input {data}/words.txt --output {data}/tokenizer.json --vocab-size 600"
    )
    results = {backend: align(output / backend, data, backend) for backend in backends}
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    plot(results, output / "alignment.png")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["torch", "mlx"])
