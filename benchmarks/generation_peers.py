"""Tokens per second and latency beside transformers, litgpt and mlx-lm, in one run on one machine.

    python benchmarks/generation_peers.py [--peers PYTHON] [--shape gpt2] [--part engines]
        [--precision bfloat16] [--small]

--peers: the Python that has transformers, litgpt and mlx-lm (for the server of transformers, also
fastapi, uvicorn and openai); by default this one. Each measurement is a process of its own with a
deadline, one after another, in a process group that this command ends. Greedy texts of 128 tokens
after prompts of 64 random ones, 1 and 16 at once; then servers: 1, 16 and 64 clients at
once ask for 64 tokens in a stream. Time to the first piece is the median of the clients. --small:
fewer and shorter, to see that all of it runs. --part: texts without a server, or servers alone.
litgpt has random weights of the same shape. What is not installed, or fails, is a line that says
why.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PROMPT = 64
HERE = Path(__file__).resolve().parent
WORDS = "the cat sat on a mat and then it ran off to see what else there was "
ENGINES = ("hermes-torch", "hermes-mlx", "transformers", "litgpt", "mlx-lm")
SERVERS = ("hermes-torch", "hermes-mlx", "transformers", "mlx-lm")


def write_model(folder, shape):
    """Write a random Llama of a shape as a Hugging Face folder, which all of them read."""
    from decoding import SHAPES, make_spec

    import hermes
    from hermes.checkpoint import Progress, save
    from hermes.interface import TrainState
    from hermes.interop.companions import make_companions
    from hermes.numerics.params import init_weights
    from hermes.recipe import Recipe
    from hermes.tokenizer import train_tokenizer

    spec, tokenizer = make_spec(SHAPES[shape]), train_tokenizer([WORDS], vocab_size=290)
    weights = dict(init_weights(spec, 0))
    zeros = {name: 0 * weight for name, weight in weights.items()}
    found = save(
        folder / "run",
        TrainState(weights, zeros, zeros, 1),
        spec=spec,
        progress=Progress(run="a" * 16, step=1, recipe=Recipe()),
        companions=make_companions(spec, tokenizer),
    )
    hermes.convert(found, folder / "hf", to="hf", backend="numpy")
    return folder / "hf"


def make_prompts(count):
    """Prompts of ids that every tokenizer of the folder has. (count, PROMPT)"""
    import numpy as np

    return np.random.default_rng(0).integers(10, 280, (count, PROMPT)).tolist()


def time_hermes(backend, folder, precision, count, tokens, rounds):
    """Seconds of each round of `count` texts."""
    from hermes.inference.batch_generation import run_requests
    from hermes.inference.decoding import generate_tokens
    from hermes.inference.engine import Engine
    from hermes.inference.request import Request
    from hermes.inference.sampling import GREEDY
    from hermes.interface import Options, find_backend
    from hermes.interop.open_model import open_model

    source = open_model(folder)
    options = Options(precision=precision)
    model = find_backend(backend).build(source.spec, source.params, options)
    prompts = make_prompts(count)

    def run():
        if count == 1:
            made = generate_tokens(model, prompts[0], max_tokens=tokens, sampling=GREEDY)
            assert sum(1 for _ in made) == tokens
            return
        engine = Engine(model, rows=count, capacity=PROMPT + tokens)
        done = run_requests(engine, [Request(tuple(p), tokens, GREEDY) for p in prompts])
        assert all(len(one.tokens) == tokens for one in done)

    return time_rounds(run, rounds)


def time_transformers(folder, precision, count, tokens, rounds):
    """As `time_hermes`."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision)).eval()
    prompts = torch.tensor(make_prompts(count))

    @torch.inference_mode()
    def run():
        found = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=False,
            max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0,
        )  # fmt: skip
        assert found.shape == (count, PROMPT + tokens)

    return time_rounds(run, rounds)


def time_litgpt(folder, precision, count, tokens, rounds):
    """As `time_hermes`, of a model with the same shape and random weights."""
    import torch
    from litgpt import GPT, Config
    from litgpt.generate.base import batched_generate_fn, generate

    shape = json.loads((folder / "config.json").read_text())
    longest = PROMPT + tokens
    config = Config(
        n_layer=shape["num_hidden_layers"], n_embd=shape["hidden_size"],
        n_head=shape["num_attention_heads"], n_query_groups=shape["num_key_value_heads"],
        intermediate_size=shape["intermediate_size"], vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"], block_size=longest, bias=False,
        rotary_percentage=1.0, parallel_residual=False, norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )  # fmt: skip
    with torch.inference_mode():
        model = GPT(config).to(getattr(torch, precision)).eval()
        model.lm_head.weight = model.transformer.wte.weight
        model.max_seq_length = longest
        model.set_kv_cache(batch_size=count, dtype=getattr(torch, precision))
    prompts = torch.tensor(make_prompts(count))
    greedy = {"temperature": 0.0, "top_p": 0.0}

    @torch.inference_mode()
    def run():
        if count == 1:
            found = generate(model, prompts[0], longest, **greedy, include_prompt=False)
            assert found.shape == (tokens,)
            return
        steps = batched_generate_fn(
            model, prompts, longest, sample_args=greedy, include_prompt=False, include_eos=False
        )
        assert sum(1 for _ in steps) == tokens

    return time_rounds(run, rounds)


def time_mlx_lm(folder, precision, count, tokens, rounds):
    """As `time_hermes`."""
    import importlib

    import mlx.core as mx
    from mlx_lm import load

    made = importlib.import_module("mlx_lm.generate")
    model, tokenizer = load(str(folder))
    model.set_dtype(getattr(mx, precision))
    tokenizer.eos_token_ids = set()  # as many tokens as of the others
    prompts = make_prompts(count)

    def run():
        if count == 1:
            steps = made.generate_step(mx.array(prompts[0]), model, max_tokens=tokens)
            assert sum(1 for _ in steps) == tokens
            return
        made.batch_generate(model, tokenizer, prompts, max_tokens=tokens)

    return time_rounds(run, rounds)


def time_rounds(run, rounds):
    """Seconds of each round; one before them warms up."""
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken[1:]


def measure_engine(name, *how):
    """Print the seconds of each round, as JSON; in a process of its own."""
    if name.startswith("hermes"):
        taken = time_hermes(name.removeprefix("hermes-"), *how)
    else:
        peers = {"transformers": time_transformers, "litgpt": time_litgpt, "mlx-lm": time_mlx_lm}
        taken = peers[name](*how)
    print(json.dumps(taken))


def make_server_command(name, folder, precision, port, peers):
    """The command line of a server."""
    if name.startswith("hermes"):
        backend = name.removeprefix("hermes-")
        return [sys.executable, "-m", "hermes", "serve", "-c", folder, "--port", str(port),
                "--backend", backend, "--precision", precision]  # fmt: skip
    if name == "transformers":
        command = [peers, "-c", "from transformers.cli.transformers import main; main()"]
        return [*command, "serve", str(folder), "--port", str(port), "--dtype", precision]
    return [peers, "-m", "mlx_lm", "server", "--model", str(folder), "--port", str(port)]


async def ask_once(client, address, model, tokens):
    """Seconds to the first piece and to the end of an answer, and its pieces."""
    body = {"model": model, "messages": [{"role": "user", "content": WORDS}], "stream": True,
            "max_tokens": tokens, "temperature": 0}  # fmt: skip
    start, first, count = time.perf_counter(), None, 0
    async with client.stream("POST", f"{address}/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError((await answer.aread())[:200])
        async for line in answer.aiter_lines():
            choices = json.loads(line[6:]).get("choices") if line.startswith("data: {") else None
            if choices and choices[0].get("delta", {}).get("content"):
                first = first or time.perf_counter() - start
                count += 1
    return first, count


async def ask_many(address, model, clients, tokens):
    """The median seconds to the first piece, and tokens per second of all."""
    import httpx

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=None, limits=limits) as client:
        start = time.perf_counter()
        found = await asyncio.gather(
            *[ask_once(client, address, model, tokens) for _ in range(clients)]
        )
        seconds = time.perf_counter() - start
    firsts = [first for first, _ in found if first is not None]
    # Pieces of text, of which a token may give none where a character is not whole.
    return statistics.median(firsts or [float("nan")]), clients * tokens / seconds


def measure_server(name, folder, precision, peers, clients, tokens, deadline):
    """Print the figures of a server by number of clients."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, model = f"http://127.0.0.1:{port}", str(folder)
    # The server of transformers lists the Hub's cache, and fails where there is none.
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as cache:
        process = subprocess.Popen(
            make_server_command(name, folder, precision, port, peers), stdout=log, stderr=log,
            env={**os.environ, "HF_HUB_CACHE": cache},
        )  # fmt: skip
        try:
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(log.read().decode(errors="replace").strip()[-200:])
                with suppress(httpx.HTTPError):
                    found = httpx.get(f"{address}/v1/models", timeout=5)
                    if found.status_code == 200:
                        break
                time.sleep(0.2)
            if name.startswith("hermes"):
                model = found.json()["data"][0]["id"]

            async def run():
                limit = max(deadline - time.monotonic(), 1)
                await asyncio.wait_for(ask_many(address, model, 1, 4), limit)  # warms up
                for count in clients:
                    limit = max(deadline - time.monotonic(), 1)
                    asked = ask_many(address, model, count, tokens)
                    first, rate = await asyncio.wait_for(asked, limit)
                    print(f"  {name:14} {count:3} clients   first piece {first * 1e3:8,.1f} ms   "
                          f"{rate:8,.1f} tokens/s", flush=True)  # fmt: skip

            asyncio.run(run())
        finally:
            process.kill()
            process.wait()


def run_worker(python, arguments, seconds):
    """A worker's output; raises RuntimeError with its last words where it fails or takes longer."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    try:
        ran = subprocess.run(
            [python, __file__, *map(str, arguments)], capture_output=True, text=True,
            timeout=seconds, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {seconds:g} s") from None
    if ran.returncode != 0:
        raise RuntimeError((ran.stderr.strip().splitlines() or ["it failed"])[-1][:200])
    return ran.stdout


def compare(chosen):
    """Measure and print all."""
    import httpx

    tokens, rounds, clients = (16, 1, (1, 4)) if chosen.small else (128, 3, (1, 16, 64))
    with tempfile.TemporaryDirectory() as place:
        folder = write_model(Path(place), chosen.shape)
        print(f"{chosen.shape}, {chosen.precision}, prompt {PROMPT}, {tokens} new tokens, "
              f"{os.cpu_count()} cores", flush=True)  # fmt: skip
        for count in (1, 4 if chosen.small else 16) if chosen.part != "servers" else ():
            for name in chosen.only or ENGINES:
                python = sys.executable if name.startswith("hermes") else chosen.peers
                arguments = ("--worker", name, "--folder", folder, "--count", count,
                             "--tokens", tokens, "--rounds", rounds,
                             "--precision", chosen.precision)  # fmt: skip
                try:
                    taken = json.loads(run_worker(python, arguments, chosen.deadline))
                except RuntimeError as error:
                    print(f"  {name:14} {count:3} at once   {error}", flush=True)
                    continue
                rate = count * tokens / statistics.median(taken)
                spread = count * tokens / max(taken), count * tokens / min(taken)
                print(f"  {name:14} {count:3} at once   {rate:8,.1f} tokens/s   "
                      f"from {spread[0]:,.1f} to {spread[1]:,.1f}", flush=True)  # fmt: skip
        for name in (chosen.only or SERVERS) if chosen.part != "engines" else ():
            if name not in SERVERS:
                continue
            deadline = time.monotonic() + chosen.deadline
            try:
                measure_server(name, folder, chosen.precision, chosen.peers, clients, tokens // 2,
                               deadline)  # fmt: skip
            except (RuntimeError, TimeoutError, OSError, httpx.HTTPError) as error:
                said = "not done in time" if isinstance(error, TimeoutError) else repr(error)
                print(f"  {name:14} server: {said}", flush=True)


def main():
    """Be a worker, or compare all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--shape", default="gpt2")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--only", action="append", choices=ENGINES)
    parser.add_argument("--part", choices=("engines", "servers"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--deadline", type=float, default=300, help="seconds of one measurement")
    for name, kind in (("worker", str), ("folder", Path), ("count", int), ("tokens", int),
                       ("rounds", int)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        measure_engine(chosen.worker, chosen.folder, chosen.precision, chosen.count, chosen.tokens,
                       chosen.rounds)  # fmt: skip
        return
    with suppress(PermissionError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    try:
        compare(chosen)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGTERM)  # whatever a server left behind


if __name__ == "__main__":
    main()
