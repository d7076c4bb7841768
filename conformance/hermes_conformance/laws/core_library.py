"""L0 of the core library: MAL, token ids, data order, learning rates and initial weights."""

from collections.abc import Iterator

import numpy as np

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.data.order import order_samples
from hermes.mal import dumps, loads
from hermes_conformance.cases.case import Case
from hermes_conformance.golden import hashes, vectors
from hermes_conformance.measure.compare import Measurement, compare_bits, compare_values
from hermes_conformance.measure.law import CasePredicate, Check, Law
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT

SPLITS = ((1, 8), (2, 4), (4, 2), (8, 1))  # world size, micro-batches of 8 rows on each rank


def language(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A spec written as MAL is read back equal, and is written as the same text again."""
    text = dumps(case.spec)
    again = loads(text)
    yield compare_values("the spec read back", again, case.spec, EXACT)
    yield compare_values("its text", dumps(again), text, EXACT)


def pins(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Golden files, initial weights, rates, data order, MAL and token ids are the pinned ones."""
    expected = hashes.read_pins()
    for name, digest in vectors.hash_files(hashes.find_golden_folder()).items():
        written = vectors.read_hashes(hashes.find_golden_folder()).get(name)
        yield compare_values(f"SHA-256 of {name}", digest, written, EXACT)
    for name, value in hashes.compute_pins().items():
        yield compare_values(name, value, expected.get(name), EXACT)


def order(case: Case, backends: Backends) -> Iterator[Measurement]:
    """An epoch has every sample once and an order of its own; parts of it join to the whole."""
    samples = order_samples(20, Cursor(), hashes.SAMPLES, hashes.EPOCH)
    yield compare_values(
        "each epoch is whole and has its own order", hashes.has_whole_epochs(samples), True, EXACT
    )
    cursor, parts = Cursor(), []
    for count in (1, 2_999, 1, 3_500, 3_499):
        parts.append(order_samples(20, cursor, count, hashes.EPOCH))
        cursor = cursor.advance(count, hashes.EPOCH)
    yield compare_bits("the order in pieces", np.concatenate(parts), samples, EXACT)


def splits(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A step has the same samples however ranks and micro-batches share them."""
    stream = TokenStream.from_ids(np.arange(6_001) % 997)
    data = TextDataset(stream, seq_len=5, vocab_size=997, seed=20)
    start = Cursor(0, 1_190)  # the second step crosses the end of the epoch
    whole = None
    for world_size, accum in SPLITS:
        samples = {}
        for rank in range(world_size):
            cursor = start
            for step in range(3):
                batch, cursor = data.draw_batch(
                    cursor,
                    samples=64,
                    micro_batch=8,
                    accum=accum,
                    rank=rank,
                    world_size=world_size,
                )
                for row, tokens, targets in zip(
                    batch.rows.ravel(),
                    batch.tokens.reshape(-1, 5),
                    batch.targets.reshape(-1, 5),
                    strict=True,
                ):
                    samples[step, int(row)] = (tokens.tolist(), targets.tolist())
        whole = samples if whole is None else whole
        yield compare_values(f"samples on {world_size} ranks", samples, whole, EXACT)
    assert whole is not None, "there is more than one split"
    for tokens, targets in whole.values():
        yield compare_values("targets follow their tokens", targets[:-1], tokens[1:], EXACT)


def round_trip(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Text decoded from its ids is unchanged, whole and as a stream."""
    tokenizer = hashes.load_tokenizer()
    for number, text in enumerate(hashes.TEXTS):
        ids = tokenizer.encode(text)
        yield compare_values(
            f"text {number}", tokenizer.decode(ids, skip_special=False), text, EXACT
        )
        stream = tokenizer.stream(skip_special=False)
        pieces = "".join(stream.push(token) for token in ids) + stream.flush()
        yield compare_values(f"text {number} streamed", pieces, text, EXACT)
        inside = not set(ids) & tokenizer.special_ids
        yield compare_values(f"text {number} has no special token", inside, True, EXACT)


def _make_law(name: str, statement: str, check: Check, applies_to: CasePredicate) -> Law:
    return Law("L0", name, statement, EXACT, check, applies_to, "no backend", precision=None)


def _is_default(case: Case) -> bool:
    return case.name == "default/fresh"


LAWS = (
    _make_law(
        "language",
        "a spec survives its MAL text",
        language,
        lambda case: case.name.endswith("/fresh"),
    ),
    _make_law(
        "pins", "weights, rates, order, MAL and token ids are the pinned ones", pins, _is_default
    ),
    _make_law("order", "the data order is a permutation in each epoch", order, _is_default),
    _make_law("shares", "any split of a step has the same samples", splits, _is_default),
    _make_law("tokens", "text survives its token ids", round_trip, _is_default),
)
