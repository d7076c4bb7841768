"""DPO compared with TRL's DPOTrainer: the same model, pairs, order and batch, in the same run.

    pip install 'hermes-llm[trl]'
    python benchmarks/dpo_trl.py [--shape tiny|22m] [--steps 12] [--batch-size 4] [--threads N]

TRL runs three times: with its reference model in memory, its default; with
precompute_ref_log_probs; and with the reference in memory and its default activation checkpointing,
which is off in the first two, as in hermes. Printed are the first ten losses of each, and tokens
per second of steps alone, without the first two, and of the whole training including the reference
log-probabilities (but not imports or reading data); by wall clock, and by CPU time, which other
work on the machine disturbs less. The best round counts. Tokens are those of prompts and
completions on both sides, without padding. The ratio is hermes over the other.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from hermes.data import Cursor
from hermes.data.order import order_samples
from hermes.data.preferences import read_pairs
from hermes.finetuning.base_model import open_base_model
from hermes.finetuning.dpo import DPOData
from hermes.interface import Options, find_backend
from hermes.interop.convert import convert
from hermes.recipe import OptimizerRecipe
from hermes.training.events import Update
from hermes.training.request import RunRequest
from hermes.training.run import open_run

# layers, width, heads, feed-forward, vocabulary, context
SHAPES = {"tiny": (4, 128, 4, 352, 8000, 256), "22m": (8, 384, 6, 1024, 16000, 512)}
WARM = 2
MEASURES = {
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "reward_margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen_logprob": "logps/chosen",
    "rejected_logprob": "logps/rejected",
}


@dataclass(frozen=True)
class Setting:
    """The settings of both runs.

    pairs: prompt, chosen and rejected, as plain text. rule: other fields of hermes' preference
    loss; the corresponding fields of TRL are given to it separately.
    """

    base: Path
    pairs: Sequence[Mapping[str, str]]
    steps: int
    batch_size: int
    max_len: int
    lr: float = 5e-7
    beta: float = 0.1
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    rule: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """What a run computed, and when.

    measures: metrics of each step by hermes' names, including `loss`. ends: when each step ended,
    in seconds since the run began, by wall clock and CPU time.
    """

    measures: list[dict[str, float]]
    ends: list[tuple[float, float]]


class Watch:
    """Measures seconds since it was made, by wall clock and CPU time."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Read both."""
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]


def train_with_hermes(setting: Setting, output: Path, backend: str = "torch") -> Trace:
    """Train with hermes."""
    file = output.with_name(f"{output.name}.jsonl")
    file.write_text("".join(f"{json.dumps(dict(pair))}\n" for pair in setting.pairs))
    start, engine = open_base_model(setting.base, chat=False), find_backend(backend)
    options = Options(device="cpu")
    preferences = DPOData(read_pairs((file,)), start, engine, options, output, use_template=False)
    given = {
        "objective": "preference", "seq_len": setting.max_len, "lr": setting.lr,
        "batch_size": setting.batch_size, "max_steps": setting.steps, "save_every": 0,
        "preference.beta": setting.beta,
    } | {f"optimizer.{name}": value for name, value in vars(setting.optimizer).items()}  # fmt: skip
    given |= {f"preference.{name}": value for name, value in setting.rule.items()}
    request = RunRequest(
        output=output, data=(str(file),), backend=engine, tokenizer=start.tokenizer,
        options=options, given=given, log_every=1, initial_model=start.start,
        make_data=preferences.make_training_data,
    )  # fmt: skip
    trace, watch = Trace([], []), Watch()
    with open_run(request) as run:
        for event in run.train():
            if isinstance(event, Update):
                trace.measures.append({"loss": event.loss, **event.others})
                trace.ends.append(watch.read())
    return trace


def train_with_trl(setting: Setting, output: Path, **changed: Any) -> Trace:
    """Train with TRL; changed: fields of its DPOConfig."""
    import datasets
    import transformers
    from trl import DPOConfig, DPOTrainer

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    order = order_samples(0, Cursor(), setting.steps * setting.batch_size, len(setting.pairs))
    rows = datasets.Dataset.from_list([dict(setting.pairs[i]) for i in order])
    trace, watch, before = Trace([], []), Watch(), (0.0, 0.0)

    class Trainer(DPOTrainer):
        def _precompute_ref_logps(self, *arguments: Any, **named: Any) -> Any:
            nonlocal before
            own = Watch()
            found = super()._precompute_ref_logps(*arguments, **named)
            before = own.read()
            return found

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            found = super().compute_loss(*arguments, **named)
            loss = found[0] if isinstance(found, tuple) else found
            told = {name: self._metrics["train"][theirs][-1] for name, theirs in MEASURES.items()}
            trace.measures.append({"loss": float(loss.detach()), **told})
            return found

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            wall, cpu = watch.read()
            trace.ends.append((wall + before[0], cpu + before[1]))

    o = setting.optimizer
    config = {
        "output_dir": str(output), "per_device_train_batch_size": setting.batch_size,
        "max_steps": setting.steps, "learning_rate": setting.lr, "beta": setting.beta,
        "lr_scheduler_type": "constant", "optim": "adamw_torch", "adam_beta1": o.beta1,
        "adam_beta2": o.beta2, "adam_epsilon": o.eps, "weight_decay": o.weight_decay,
        "max_grad_norm": 1.0, "max_length": setting.max_len, "bf16": False, "use_cpu": True,
        "gradient_checkpointing": False, "report_to": [], "save_strategy": "no",
        "logging_steps": setting.steps, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(setting.base, dtype=torch.float32)
    trainer = Trainer(
        model=model,
        args=DPOConfig(**config | changed),
        train_dataset=rows,
        processing_class=transformers.AutoTokenizer.from_pretrained(setting.base),
        callbacks=[Clock()],
    )
    watch = Watch()
    trainer.train()
    return trace


def make_base(shape: str, folder: Path, words: Sequence[str]) -> Path:
    """Make a model of initial weights with a tokenizer, as a folder that both can load."""
    from hermes.checkpoint import Progress, save
    from hermes.interface import TrainState
    from hermes.interop.companions import make_companions
    from hermes.numerics.params import init_weights, list_parameters
    from hermes.recipe import Recipe
    from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec
    from hermes.tokenizer import train_tokenizer

    layers, width, heads, hidden, vocabulary, context = SHAPES[shape]
    block = BlockSpec(AttentionSpec(num_heads=heads), FfnSpec(hidden_dim=hidden))
    spec = ModelSpec(
        name=shape, blocks=(block,), vocab_size=vocabulary, max_seq_len=context,
        hidden_size=width, num_layers=layers,
    )  # fmt: skip
    zeros = {
        name: np.zeros(tensor.shape, np.float32) for name, tensor in list_parameters(spec).items()
    }
    own = make_companions(spec, train_tokenizer([" ".join(words)] * 20, vocab_size=600))
    progress = Progress(run="a" * 16, step=1, recipe=Recipe())
    state = TrainState(init_weights(spec, 0), zeros, zeros, 1)
    saved = save(folder / "run", state, spec=spec, progress=progress, companions=own)
    convert(saved, folder / "base", to="hf", backend="torch")
    return folder / "base"


def make_pairs(count: int, words: Sequence[str], longest: int) -> list[dict[str, str]]:
    """Make pairs of very different lengths, as real ones have: up to `longest` words a side."""
    rng = np.random.default_rng(0)

    def text(least: int, most: int) -> str:
        chosen = rng.integers(0, len(words), rng.integers(least, most))
        return "".join(f" {words[i]}" for i in chosen)

    def pair(third: int) -> dict[str, str]:
        sides = {"chosen": text(4, third), "rejected": text(4, 2 * third)}
        return {"prompt": text(third // 4, third)} | sides

    return [pair(longest // 3) for _ in range(count)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    words = [f"{a}{b}{c}" for a in "bdgklmnprst" for b in "aeiou" for c in "lmnrst"]
    longest = SHAPES[asked.shape][5]
    with TemporaryDirectory() as folder:
        place = Path(folder)
        found = make_pairs(asked.steps * asked.batch_size, words, longest // 2)
        base = make_base(asked.shape, place, words)
        setting = Setting(base, found, asked.steps, asked.batch_size, longest)
        tokens = count_tokens(setting)
        runs = {
            "hermes": lambda to: train_with_hermes(setting, to),
            "TRL": lambda to: train_with_trl(setting, to),
            "TRL, reference precomputed": lambda to: train_with_trl(
                setting, to, precompute_ref_log_probs=True
            ),
            "TRL, activation checkpointing": lambda to: train_with_trl(
                setting, to, gradient_checkpointing=True
            ),
        }
        traces = []
        for turn in range(asked.rounds):
            turns = enumerate(runs.items())
            traces.append({name: run(place / f"{turn}-{n}") for n, (name, run) in turns})
    report(asked, tokens, traces)


def count_tokens(setting: Setting) -> list[int]:
    """Count the tokens of each step on both sides, without padding."""
    start = open_base_model(setting.base, chat=False)
    order = order_samples(0, Cursor(), setting.steps * setting.batch_size, len(setting.pairs))
    lengths = []
    for number in order:
        one = setting.pairs[number]
        prompt = len(start.tokenizer.encode(one["prompt"]))
        sides = [len(start.tokenizer.encode(one[side])) + 1 for side in ("chosen", "rejected")]
        lengths.append(2 * prompt + sum(sides))
    return [int(sum(one)) for one in np.split(np.array(lengths), setting.steps)]


def report(asked: Any, tokens: list[int], traces: list[dict[str, Trace]]) -> None:
    """Print the first losses and the speeds."""
    import datasets
    import transformers
    import trl

    print(f"{asked.shape}, batch {asked.batch_size} pairs, {asked.threads} threads; torch "
          f"{torch.__version__}, trl {trl.__version__}, transformers {transformers.__version__}, "
          f"datasets {datasets.__version__}")  # fmt: skip
    for name, trace in traces[0].items():
        print(f"{name:30}", *(f"{one['loss']:.6f}" for one in trace.measures[:10]))
    head = "".join(f"{name:>12} ratio" for name in ("steps", "whole", "steps cpu", "whole cpu"))
    print(f"{'tokens per second':30}{head}")
    speeds = {}
    for name in traces[0]:
        ends = [np.array(one[name].ends) for one in traces]
        updates = np.max([sum(tokens[WARM:]) / (end[-1] - end[WARM - 1]) for end in ends], axis=0)
        whole = np.max([sum(tokens) / end[-1] for end in ends], axis=0)
        speeds[name] = [updates[0], whole[0], updates[1], whole[1]]
    for name, found in speeds.items():
        ratios = zip(found, speeds["hermes"], strict=True)
        print(f"{name:30}", *(f"{one:11,.0f} {ours / one:5.2f}" for one, ours in ratios))


if __name__ == "__main__":
    main()
