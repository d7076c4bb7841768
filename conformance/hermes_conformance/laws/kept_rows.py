"""Laws of L5 about prompt caches: what one backend has read, in a file, and another goes on from.

`hermes generate --prompt-cache` and `hermes serve --prompt-cache` write these files.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hermes.inference.engine import Engine
from hermes.inference.prefixes import RowState
from hermes.inference.prompt_cache import CacheKey, PromptCache
from hermes.inference.request import Request
from hermes.inference.row_decoding import make_row_decoder, require_keeping
from hermes.inference.sampling import GREEDY
from hermes_conformance.cases import decoding_specs
from hermes_conformance.cases.case import Case
from hermes_conformance.cases.specs import make_field_specs
from hermes_conformance.cases.weights import draw_hot
from hermes_conformance.laws.rows import keeps_all
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import (
    Measurement,
    compare_bits,
    compare_relative,
    compare_values,
)
from hermes_conformance.measure.law import Check, Law, match_names
from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.oracle.rounding_noise import (
    LogitNoise,
    compare_with_noise,
    estimate_logit_noise,
)

CHUNK = 4
FIELDS = (
    "default",
    "attention.heads=2/1x80",
    "attention.position_encoding=learned",
    "attention.position_encoding=alibi",
    "attention.position_encoding=rope-dynamic",
    "attention.position_encoding=rope-longrope",
    "attention.v_head_dim=4",
    "attention.sinks=true",
    "attention.qk_norm=after rope",
    "block.attention=none",
)


def make_cases() -> tuple[Case, ...]:
    """Attentions whose caches differ: in shapes, in what is applied to keys, in what is kept."""
    specs = make_field_specs()
    fields = (Case(f"kept.{name}/hot", specs[name], draw_hot, A=1) for name in FIELDS)
    windows = decoding_specs.make_ring_cases()
    kept = (Case(f"kept.{case.name}", case.spec, draw_hot, A=1, T=case.T) for case in windows)
    return (*fields, *kept)


def _list_pairs(
    backends: Backends, precision: str
) -> Iterator[tuple[BackendUnderTest, BackendUnderTest]]:
    """(who reads a prompt, who goes on). The oracle is float64 alone."""
    one, other = backends.subject, backends.reference
    yield one, one
    if precision == "float64" or backends.both_train:
        yield one, other
        yield other, one


def _keep(
    case: Case, subject: BackendUnderTest, precision: str, length: int, path: Path
) -> tuple[RowState, RowState]:
    """What an engine has of the beginning of the first row, and what a file then has of it."""
    prompt = case.tokens[0, :length].tolist()
    model = subject.build_model(case, precision)
    engine = Engine(model, rows=2, capacity=case.T, prefill_chunk=CHUNK)
    generation = engine.submit(Request(tuple(prompt), case.T - length + 1, GREEDY))
    while not generation.is_done and not generation.choices:
        engine.step()
    own = engine.copy_row(prompt)
    assert own is not None, "the engine has read the prompt"
    cache = PromptCache(path, CacheKey(case.name, precision))
    cache.save(engine, prompt)
    found = cache.read()
    assert found is not None, "the file was written"
    return own, found


def _go_on(
    case: Case, subject: BackendUnderTest, precision: str, state: RowState
) -> Iterator[tuple[int, np.ndarray]]:
    """The rest of the row, read behind what is kept: how many tokens, and the logits after them.

    Nothing where the cache does not take the row.
    """
    decoder = make_row_decoder(subject.build_model(case, precision), 2, case.T)
    cache, start = require_keeping(decoder), len(state.tokens)
    if not cache.write_row(1, state.capacity, start, state.tensors):
        return
    ends = [start + 1, *range(min(start + 3, case.T), case.T + 1)]
    for a, b in zip([start, *ends], ends, strict=False):
        yield b, cache.advance([1], case.tokens[:1, a:b], [b - a])[0]


def _measure(
    case: Case, backends: Backends, precision: str
) -> Iterator[tuple[str, int, np.ndarray] | Measurement]:
    """Exact measurements, and the logits that are to be judged: what, after how many tokens."""
    length = case.T // 2 + 1
    with tempfile.TemporaryDirectory() as folder:
        for one, other in _list_pairs(backends, precision):
            names = f"{one.name} to {other.name}"
            own, state = _keep(case, one, precision, length, Path(folder, "row"))
            yield compare_values(f"{names}: tokens", state.tokens, own.tokens, tolerance.EXACT)
            yield compare_values(
                f"{names}: tensors", set(state.tensors), set(own.tensors), tolerance.EXACT
            )
            for name, value in own.tensors.items():
                yield compare_bits(f"{names}: {name}", state.tensors[name], value, tolerance.EXACT)
            found = list(_go_on(case, other, precision, state))
            # The oracle takes whole rows only, and others what they themselves would keep.
            must_take = one is other or keeps_all(case)
            if must_take or found:
                yield compare_values(f"{names}: is taken", bool(found), True, tolerance.EXACT)
            for end, got in found:
                yield f"{names}: logits after {end} tokens", end, got


def float64(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Rows go on as the reference's full pass does, in float64."""
    reference = backends.reference
    whole = reference.compute_once(
        case, "unpacked", lambda: reference.build_model(case).logits(case.tokens)
    )
    for found in _measure(case, backends, "float64"):
        if isinstance(found, Measurement):
            yield found
            continue
        what, end, got = found
        yield compare_relative(what, got, whole[0, end - 1], tolerance.LOGITS_64)


def _make_noise_check(
    precision: str, token_bound: tolerance.Bound, element_bound: tolerance.Bound
) -> Check:
    def check(case: Case, backends: Backends) -> Iterator[Measurement]:
        """Rows read from files err as a format does, and their files lose nothing."""
        noise = estimate_logit_noise(backends.oracle, case, precision)
        for found in _measure(case, backends, precision):
            if isinstance(found, Measurement):
                yield found
                continue
            what, end, got = found
            at = np.s_[:1, end - 1 : end]
            here = LogitNoise(noise.logits[at], noise.sigma[at], noise.kl, noise.unit)
            yield from compare_with_noise(what, got[None, None], here, token_bound, element_bound)

    return check


_SHORT = match_names("kept.default", "kept.decoding.ring windows")

LAWS = (
    Law(
        "L5",
        "kept-rows",
        "another backend resumes from a prompt cache in a file",
        tolerance.LOGITS_64,
        float64,
        match_names("kept."),
    ),
    *(
        Law(
            "L5",
            f"kept-rows-{precision}",
            f"a prompt cache in a file loses nothing in {precision}",
            token_bound,
            _make_noise_check(precision, token_bound, element_bound),
            _SHORT,
            precision=precision,
        )
        for precision, token_bound, element_bound in (
            ("float32", tolerance.TOKEN_32, tolerance.ELEMENT_32),
            ("bfloat16", tolerance.TOKEN_16, tolerance.ELEMENT_16),
        )
    ),
)
