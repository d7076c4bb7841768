"""Prompt caches in files: the text of a call without one, on any backend, never of others."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import hermes
from hermes.errors import CheckpointError, HermesError, StorageError, Unsupported
from hermes.inference.batch_generation import run_requests
from hermes.inference.engine import Engine
from hermes.inference.prompt_cache import CacheKey, PromptCache, hash_weights
from hermes.inference.request import Request
from hermes.inference.sampling import GREEDY
from hermes.numerics.params import init_weights
from tests.finetuning.support import small_checkpoint
from tests.inference.support import ATTENTIONS, V, make_model, make_spec

KEY = CacheKey("model", "float32")
BACKENDS = ["torch", "mlx"]


def make_prompt(length, seed=1):
    return tuple(np.random.default_rng(seed).integers(0, V, length).tolist())


def complete(model, prompt, *, cache=None, saves=False, capacity=None):
    """The tokens that follow, and how many of the prompt's were not read."""
    engine = Engine(model, rows=1, capacity=capacity)
    if cache is not None and not saves:
        assert cache.load(engine)
    generation = engine.submit(Request(prompt, 8, GREEDY))
    while not generation.choices:
        engine.step()
    if saves:
        cache.save(engine, list(prompt))
    engine.run()
    return generation.tokens, generation.num_reused


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize(
    ("wrote", "reads"), [("torch", "mlx"), ("mlx", "torch"), ("torch", "torch")]
)
def test_what_one_backend_has_read_the_other_continues(tmp_path, kind, wrote, reads):
    """One that begins alike, and the same; by the window too, which has forgotten the beginning."""
    cache, prompt = PromptCache(tmp_path / "a", KEY), make_prompt(24)
    writer, reader = make_model(wrote, kind), make_model(reads, kind)
    first, _ = complete(writer, prompt, cache=cache, saves=True)
    for longer in (prompt, (*prompt, 3, 5, 9)):
        expected, _ = complete(reader, longer)
        found, reused = complete(reader, longer, cache=cache)
        assert found == expected
        dynamic = kind == "dynamic" and len(longer) > len(prompt)  # another table of rope
        assert reused == (0 if dynamic else min(len(prompt), len(longer) - 1))
    assert complete(reader, prompt, cache=cache)[0] == first


@pytest.mark.parametrize("kind", ["rope", "window", "alibi"])
def test_the_oracle_reads_what_it_wrote_in_another_process_shape(tmp_path, kind):
    key = CacheKey("model", "float64")
    cache, prompt, model = (
        PromptCache(tmp_path / "a", key),
        make_prompt(20),
        make_model("numpy", kind),
    )
    expected, _ = complete(model, prompt, cache=cache, saves=True)
    assert complete(model, prompt, cache=cache) == (expected, 19)


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_capacity_changes_nothing(tmp_path, backend):
    """Buffers of windows are of another length there; what does not fit is read again."""
    for kind in ("rope", "window"):
        cache, prompt = PromptCache(tmp_path / kind, KEY), make_prompt(24)
        model = make_model(backend, kind)
        expected, _ = complete(model, prompt, cache=cache, saves=True)
        assert complete(model, prompt, cache=cache, capacity=32)[0] == expected
        engine = Engine(model, rows=1, capacity=16)
        assert not cache.load(engine)
        (short,) = run_requests(engine, [Request(prompt[:10], 4, GREEDY)])
        assert short.tokens == complete(model, prompt[:10])[0][:4]


def test_the_numbers_of_a_file_are_those_of_the_cache(tmp_path):
    """Both backends' files hold the same keys and values to rounding; half of them in bfloat16."""
    states, sizes = [], []
    for backend in BACKENDS:
        engine = Engine(make_model(backend), rows=1)
        run_requests(engine, [Request(make_prompt(20), 3, GREEDY)])
        states.append(engine.copy_row(list(make_prompt(20))))
        for precision in ("float32", "bfloat16"):
            path = tmp_path / precision
            PromptCache(path, CacheKey("m", precision)).save(engine, list(make_prompt(20)))
            sizes.append(path.stat().st_size)
    assert sorted(states[0].tensors) == [
        "layers.0.keys", "layers.0.values", "layers.1.keys", "layers.1.values",
    ]  # fmt: skip
    for name, tensor in states[0].tensors.items():
        np.testing.assert_allclose(tensor, states[1].tensors[name], rtol=2e-5, atol=2e-5)
        assert np.abs(tensor).max() > 0.1
    assert sizes[1] < 0.75 * sizes[0]


def test_a_file_that_is_damaged_or_foreign_is_refused_by_name(tmp_path):
    path, prompt, model = tmp_path / "a.cache", make_prompt(24), make_model("torch")
    complete(model, prompt, cache=PromptCache(path, KEY), saves=True)
    good = path.read_bytes()

    def load(key=KEY, model=model):
        PromptCache(path, key).load(Engine(model, rows=1))

    load()
    with pytest.raises(CheckpointError, match=r"a\.cache is the prompt cache of another model"):
        load(CacheKey("other", "float32"))
    with pytest.raises(CheckpointError, match="in float32, and the model is in bfloat16"):
        load(CacheKey("model", "bfloat16"))
    with pytest.raises(HermesError, match="the row that was kept"):
        load(model=make_model("torch", "window"))
    random = np.random.default_rng(0)
    for at in [*random.integers(0, len(good), 40), 0, 8, len(good) - 1]:
        bad = bytearray(good)
        bad[at] ^= 1 << random.integers(8)
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"a\.cache.*delete it, or name another file"):
            load()
    for size in (0, 5, 100, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(CheckpointError, match=r"a\.cache is no prompt cache"):
            load()


def test_weights_that_differ_in_one_number_have_another_hash():
    spec = make_spec()
    params = init_weights(spec, 3)
    hashes = {hash_weights(spec, params), hash_weights(make_spec("alibi"), params)}
    for name in params:
        changed = {key: np.array(value) for key, value in params.items()}
        flat = changed[name].reshape(-1)
        flat[len(flat) // 2] += 0.25
        hashes.add(hash_weights(spec, changed))
    assert len(hashes) == 2 + len(params)
    assert hash_weights(spec, dict(params)) in hashes


def test_a_backend_that_gives_no_rows_away_is_named(tmp_path):
    class Plain:
        """A model of a third party, whose rows advance together only."""

        def __init__(self, model):
            self.spec, self.decoder = model.spec, model.decoder

    with pytest.raises(Unsupported, match="leave --prompt-cache out"):
        complete(Plain(make_model("torch")), make_prompt(9),
                 cache=PromptCache(tmp_path / "a", KEY), saves=True)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("cached"))


def test_generate_writes_the_same_with_and_without(checkpoint, tmp_path):
    path, prompt = tmp_path / "p.cache", "the cat sat on a mat"
    asked = {"max_tokens": 8, "seed": 3, "num_samples": 2}
    plain = hermes.generate(checkpoint, prompt, backend="torch", **asked)
    for backend in BACKENDS:  # the first writes the file, the second reads it
        assert (
            hermes.generate(checkpoint, prompt, backend=backend, prompt_cache=path, **asked)
            == plain
        )
        written = path.stat().st_mtime_ns
    assert path.stat().st_mtime_ns == written
    ran = subprocess.run(
        [sys.executable, "-m", "hermes", "generate", "-c", checkpoint, "-p", prompt, "--json",
         "--max-tokens", "8", "--seed", "3", "--backend", "torch", "--prompt-cache", path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(ran.stdout) == plain[0].to_json()
    assert path.stat().st_mtime_ns == written
    (tmp_path / "x").write_text("")
    with pytest.raises(HermesError, match="prompt_cache goes with prompt;"):
        hermes.generate(checkpoint, prompts=tmp_path / "x", prompt_cache=path, backend="torch")
    with pytest.raises(HermesError, match="prompt_cache is not for num_beams"):
        hermes.generate(checkpoint, prompt, num_beams=2, prompt_cache=path, backend="torch")
    with pytest.raises(StorageError, match="cannot write"):
        hermes.generate(checkpoint, prompt, prompt_cache=tmp_path / "no" / "p", backend="torch",
                        max_tokens=2)  # fmt: skip


def test_a_conversation_reads_each_turn_once_and_the_next_one_none_of_them(checkpoint, tmp_path):
    path = tmp_path / "talk.cache"

    def read_counts(talk, messages):
        """The tokens that each answer's prompt has, and how many were read before."""
        said, counts, seen = [], [], []
        for message in messages:
            pieces = talk.say(message)
            said.append(next(pieces))
            engine = talk._engine
            seen = [row.generation for row in engine._active] or seen
            counts.append((len(seen[0].request.prompt), seen[0].num_reused))
            said[-1] += "".join(pieces)
        return said, counts

    options = {"backend": "torch", "max_tokens": 6, "temperature": 0}
    plain = hermes.chat(checkpoint, **options)
    kept = hermes.chat(checkpoint, prompt_cache=path, **options)
    messages = ["the cat", "a mat"]
    expected, _ = read_counts(plain, messages)
    found, counts = read_counts(kept, messages)
    assert found == expected
    assert counts[0][1] == 0
    assert counts[1][1] >= counts[0][0]  # all of the first turn
    again = hermes.chat(checkpoint, prompt_cache=path, **{**options, "backend": "mlx"})
    found, counts = read_counts(again, messages)
    assert found == expected
    assert counts[0][1] == counts[0][0] - 1
    assert os.path.getsize(path)
