"""From text to a model that answers briefly: train, sft, dpo, and what each changes.

    python align.py OUTPUT [torch|mlx ...]

Every step is a command of hermes, printed before it runs. After sft and after dpo, the model is
asked the held-out questions, and three rates are measured: how often an answer is short, which is
what the preferences prefer; how often it is well formed, which means word for word one of the two
answers to such a question, whatever it names; and how often it names what the text says.
results.json and alignment.svg have the results for each backend.
"""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from data import ANIMALS, KINDS, write

from hermes.finetuning.base_model import open_base_model
from hermes.inference.chat_session import ChatSession
from hermes.inference.sampling import Sampling
from hermes.interface import choose_backend

SHORT = 4  # words, at most
TIMES_ASKED = 5
RATES = ("short", "well formed", "right")
STEPS = {
    "base": (
        "train --data {data}/world.txt --tokenizer {data}/tokenizer.json --model {here}/model.mal "
        "--output {out}/base --seq-len 64 --batch-size 16 --max-steps 500 --lr 3e-3 "
        "--schedule cosine --warmup-steps 20"
    ),
    "sft": (
        "sft --checkpoint {out}/base --data {data}/chat.jsonl --output {out}/sft --seq-len 96 "
        "--batch-size 8 --epochs 50 --lr 2e-3 --schedule cosine --warmup-steps 10"
    ),
    "dpo": (
        "dpo --checkpoint {out}/sft --data {data}/prefs.jsonl --output {out}/dpo --max-len 64 "
        "--batch-size 8 --epochs 5 --lr 5e-5 --schedule cosine --warmup-steps 5 --beta 0.1 "
        "--sft-weight 1 --val-fraction 0.2 --eval-every 6"
    ),
}


def run_hermes(command: str) -> None:
    """Run a command of hermes, as a user would."""
    print(f"$ hermes {command}", flush=True)
    subprocess.run(["hermes", *shlex.split(command)], check=True)


def list_well_formed(kind: str) -> set[str]:
    """List all answers to questions of this kind, right or wrong."""
    values, _, _, *forms = KINDS[kind]
    return {form.format(a=a, v=value) for form in forms for a in ANIMALS for value in values}


def measure(checkpoint: Path, questions: Path, backend: str) -> dict[str, float]:
    """Ask every question five times at temperature 1, and measure the three rates."""
    begun = open_base_model(checkpoint)
    model = choose_backend(backend).build(begun.spec, begun.params)
    found = dict.fromkeys(RATES, 0)
    facts = [json.loads(line) for line in questions.read_text().splitlines()]
    for number, fact in enumerate(facts * TIMES_ASKED):
        sampling = Sampling(temperature=1.0)
        talk = ChatSession(model, begun.encoder, sampling=sampling, max_tokens=40, seed=number)
        answer = "".join(talk.say(fact["prompt"]))
        found["short"] += len(answer.split()) <= SHORT
        found["well formed"] += answer in list_well_formed(fact["kind"])
        found["right"] += fact["answer"] in answer
    return {name: count / (TIMES_ASKED * len(facts)) for name, count in found.items()}


def align(out: Path, data: Path, backend: str) -> dict[str, object]:
    """Run all steps on one backend; the measurements."""
    here, seconds, rates = Path(__file__).parent, {}, {}
    for name, command in STEPS.items():
        began = time.perf_counter()
        run_hermes(command.format(out=out, data=data, here=here) + f" --backend {backend}")
        seconds[name] = round(time.perf_counter() - began)
        if name != "base":
            rates[name] = measure(out / name, data / "held-out.jsonl", backend)
            print(f"{backend} after {name}: {rates[name]}", flush=True)
    lines = [json.loads(line) for line in (out / "dpo/metrics.jsonl").read_text().splitlines()]
    held_out = [line for line in lines if "val_accuracy" in line]
    return {
        "after sft": rates["sft"],
        "after dpo": rates["dpo"],
        "margin of the first update": lines[0]["reward_margin"],
        "held-out accuracy": held_out[-1]["val_accuracy"],
        "held-out margin": [[line["step"], line["val_reward_margin"]] for line in held_out],
        "seconds": seconds,
    }


def plot(results: dict[str, dict], path: Path) -> None:
    """Plot the held-out margin over the steps of dpo, and the rates before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    for style, (backend, found) in zip(("-", "--"), results.items(), strict=False):
        steps, margins = zip(*found["held-out margin"], strict=True)
        left.plot(steps, margins, style, marker="o", label=backend)
    left.set(xlabel="update of dpo", ylabel="held-out reward margin (nats)")
    left.legend(frameon=False)
    for i, (backend, found) in enumerate(results.items()):
        for j, (when, shade) in enumerate((("after sft", 0.35), ("after dpo", 1.0))):
            places = [k + 0.2 * (2 * i + j - 1.5) for k in range(len(RATES))]
            heights = [100 * found[when][rate] for rate in RATES]
            label = f"{backend}, {when}"
            bars = right.bar(places, heights, 0.19, color=f"C{i}", alpha=shade, label=label)
            right.bar_label(bars, fmt="%.0f", fontsize=8)
    right.set(ylim=(0, 125), ylabel="% of answers to held-out questions")
    right.set_xticks(range(len(RATES)), RATES)
    right.legend(frameon=False, ncols=2, fontsize=8, loc="upper center")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main(output: Path, backends: list[str]) -> None:
    """Run the example on each backend."""
    data = output / "data"
    data.mkdir(parents=True)
    write(data)
    run_hermes(
        f"train-tokenizer --input {data}/words.txt --output {data}/tokenizer.json --vocab-size 600"
    )
    results = {backend: align(output / backend, data, backend) for backend in backends}
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    plot(results, output / "alignment.svg")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["torch", "mlx"])
