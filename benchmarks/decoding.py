"""Decoding speed of each backend, compared with the bound of memory bandwidth.

    python benchmarks/decoding.py [--shape tiny|22m|gpt2] [--precision float32] [--backend torch]

Greedy decoding of one row with a KV cache. Each token reads every weight once, so the bound is the
speed at which a large array is read, measured in the same run, divided by the bytes of the weights.
Processor time is told beside the clock's: other work on the machine adds to the clock alone.
--backend mlx-lm, in a Python that has it, is mlx-lm's own model and generation with the same
weights, in the same process and so with the same BLAS. --backend mlx-device: the decoder that a GPU
would have, whose next step is queued before the last token is read.
"""

import argparse
import importlib
import statistics
import time

import numpy as np
import torch

from hermes.inference.decoding import generate_tokens
from hermes.inference.sampling import Sampling
from hermes.interface import Options, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec

# layers, width, heads, feed-forward, vocabulary, context
SHAPES = {
    "tiny": (4, 128, 4, 352, 8000, 512),
    "22m": (8, 384, 6, 1024, 16000, 512),
    "gpt2": (12, 768, 12, 2048, 50257, 512),
}
BYTES = {"float32": 4, "bfloat16": 2}
PROMPT = 64


def make_spec(shape):
    """Make a Llama of this shape with a tied head, so that a token reads all that is stored."""
    layers, width, heads, hidden, vocabulary, context = shape
    block = BlockSpec(AttentionSpec(heads), FfnSpec(hidden_dim=hidden))
    tied = EmbeddingsSpec(tie_weights=True)
    return ModelSpec((block,), "bench", "", vocabulary, context, width, layers, tied)


def measure_read_speed():
    """Measure how many bytes per second this machine reads from a large array."""
    array = torch.ones(1 << 27)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        array.sum()
        seconds.append(time.perf_counter() - start)
    return array.numel() * 4 / min(seconds)


def time_text(model, count):
    """Seconds of `count` tokens after a prompt, and of the processor, without the prefill."""
    prompt = np.random.default_rng(0).integers(0, model.spec.vocab_size, PROMPT).tolist()
    tokens = model.write(prompt, count + 1)
    texts = [next(tokens)]
    start, worked = time.perf_counter(), time.process_time()
    texts += tokens
    assert len(texts) == count + 1
    return time.perf_counter() - start, time.process_time() - worked, texts


class Ours:
    """A backend's model, by its own decoder or by that of a GPU."""

    def __init__(self, name, spec, weights, options):
        backend, _, device = name.partition("-")
        self.spec = spec
        self._model = find_backend(backend).build(spec, weights, options)
        self.decoder = self._model.make_device_decoder if device else self._model.decoder

    def write(self, prompt, count):
        """The tokens of a text."""
        return generate_tokens(self, prompt, max_tokens=count, sampling=Sampling(temperature=0))


class MlxLm:
    """mlx-lm's Llama with the same weights."""

    def __init__(self, spec, weights, precision):
        find_backend("mlx")  # makes a BLAS visible to MLX, before MLX is loaded
        import mlx.core as mx
        from mlx_lm.models.llama import Model, ModelArgs

        self.spec, block = spec, spec.layers[0]
        attention = block.attention
        self._model = Model(ModelArgs(
            "llama", spec.hidden_size, spec.num_layers, block.ffn.hidden_size, attention.num_heads,
            block.norm.eps, spec.vocab_size, attention.head_size, spec.max_seq_len,
            attention.kv_heads, rope_theta=attention.position_encoding.theta,
            tie_word_embeddings=spec.embeddings.tie_weights,
        ))  # fmt: skip
        dtype = getattr(mx, precision)
        named = [(name, mx.array(np.asarray(x), dtype)) for name, x in weights.items()]
        self._model.load_weights(named)
        mx.eval(self._model.parameters())

    def write(self, prompt, count):
        """The tokens of a text."""
        import mlx.core as mx

        generate = importlib.import_module("mlx_lm.generate").generate_step
        for token, _ in generate(mx.array(prompt), self._model, max_tokens=count):
            yield int(token)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--precision", choices=BYTES, default="float32")
    parser.add_argument(
        "--backend", action="append", choices=("torch", "mlx", "mlx-device", "mlx-lm")
    )
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    spec = make_spec(SHAPES[chosen.shape])
    weights = init_weights(spec, 0)
    options = Options(precision=chosen.precision)
    names = chosen.backend or ("torch", "mlx")
    models = {
        name: MlxLm(spec, weights, chosen.precision)
        if name == "mlx-lm"
        else Ours(name, spec, weights, options)
        for name in names
    }
    taken, worked, texts = ({name: [] for name in models} for _ in range(3))
    for turn in range(chosen.rounds + 1):
        for name, model in models.items():
            seconds, processor, text = time_text(model, chosen.tokens if turn else 8)
            if turn:  # the first warms up
                taken[name].append(seconds)
                worked[name].append(processor)
                texts[name] = text
    bound = measure_read_speed() / (count_parameters(spec) * BYTES[chosen.precision])
    print(f"{chosen.shape}: {count_parameters(spec):,} parameters, {chosen.precision}, one row")
    print(f"{torch.get_num_threads()} threads")
    print(f"  memory {bound:9,.1f} tokens/s    1.00 x memory")
    for name, seconds in taken.items():
        rate = chosen.tokens / statistics.median(seconds)
        spent = min(worked[name]) / chosen.tokens * 1e3
        same = "" if texts[name] == texts[names[0]] else f"   other tokens than {names[0]}"
        print(
            f"  {name:10} {rate:9,.1f} tokens/s   {rate / bound:5.2f} x memory   "
            f"{spent:7.2f} ms of processor a token{same}"
        )


if __name__ == "__main__":
    main()
