"""L0 of what stands above every backend: the same text, ids, order, rates and first weights."""

from collections.abc import Iterator

import numpy as np

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.data.order import order_samples
from hermes.mal import dumps, loads
from hermes_conformance.cases.case import Case
from hermes_conformance.golden import hashes, vectors
from hermes_conformance.measure.compare import Measure, identical, same
from hermes_conformance.measure.law import Law, Sides
from hermes_conformance.measure.tolerance import EXACT

SPLITS = ((1, 8), (2, 4), (4, 2), (8, 1))  # world size, micro-batches, of 8 rows each


def language(case: Case, sides: Sides) -> Iterator[Measure]:
    """A spec written as MAL reads back as itself, and is written the same again."""
    text = dumps(case.spec)
    again = loads(text)
    yield same("the spec read back", again, case.spec, EXACT)
    yield same("its text", dumps(again), text, EXACT)


def pinned(case: Case, sides: Sides) -> Iterator[Measure]:
    """First weights, rates, orders, canonical texts and token ids are those pinned."""
    expected = hashes.pinned()
    for name, digest in vectors.sums(hashes.golden_folder()).items():
        written = vectors.written_sums(hashes.golden_folder()).get(name)
        yield same(f"SHA-256 of {name}", digest, written, EXACT)
    for name, value in hashes.pins().items():
        yield same(name, value, expected.get(name), EXACT)


def order(case: Case, sides: Sides) -> Iterator[Measure]:
    """Every sample once an epoch, each epoch otherwise, and any part of the order by itself."""
    samples = order_samples(20, Cursor(), hashes.SAMPLES, hashes.EPOCH)
    yield same("each epoch is whole and its own", hashes.whole_epochs(samples), True, EXACT)
    cursor, parts = Cursor(), []
    for count in (1, 2_999, 1, 3_500, 3_499):
        parts.append(order_samples(20, cursor, count, hashes.EPOCH))
        cursor = cursor.advance(count, hashes.EPOCH)
    yield identical("the order in pieces", np.concatenate(parts), samples, EXACT)


def splits(case: Case, sides: Sides) -> Iterator[Measure]:
    """An update's samples do not depend on how processes and micro-batches share them."""
    stream = TokenStream.from_ids(np.arange(6_001) % 997)
    data = TextDataset(stream, seq_len=5, vocab_size=997, seed=20)
    cursor = Cursor(0, 1_190)  # the second update crosses the end of the epoch
    whole = None
    for world, accum in SPLITS:
        found = {}
        for rank in range(world):
            at = cursor
            for update in range(3):
                batch, at = data.draw_batch(
                    at, samples=64, micro_batch=8, accum=accum, rank=rank, world_size=world
                )
                for row, tokens, targets in zip(
                    batch.rows.ravel(),
                    batch.tokens.reshape(-1, 5),
                    batch.targets.reshape(-1, 5),
                    strict=True,
                ):
                    found[update, int(row)] = (tokens.tolist(), targets.tolist())
        whole = found if whole is None else whole
        yield same(f"samples in {world} processes", found, whole, EXACT)
    assert whole is not None, "there is more than one split"
    for tokens, targets in whole.values():
        yield same("targets follow their tokens", targets[:-1], tokens[1:], EXACT)


def round_trip(case: Case, sides: Sides) -> Iterator[Measure]:
    """Text comes back from its ids unchanged, whole and as a stream."""
    tokenizer = hashes.tokenizer()
    for number, text in enumerate(hashes.TEXTS):
        ids = tokenizer.encode(text)
        yield same(f"text {number}", tokenizer.decode(ids, skip_special=False), text, EXACT)
        stream = tokenizer.stream(skip_special=False)
        pieces = "".join(stream.push(token) for token in ids) + stream.flush()
        yield same(f"text {number} streamed", pieces, text, EXACT)
        inside = not set(ids) & tokenizer.special_ids
        yield same(f"text {number} has no special token", inside, True, EXACT)


def _law(name, says, check, applies):
    return Law("L0", name, says, EXACT, check, applies, "nothing", precision=None)


def _once(case: Case) -> bool:
    return case.name == "default/fresh"


LAWS = (
    _law(
        "language",
        "a spec survives its own text",
        language,
        lambda case: case.name.endswith("/fresh"),
    ),
    _law("pins", "weights, rates, order, texts and ids are those pinned", pinned, _once),
    _law("order", "the order of the data is a permutation per epoch", order, _once),
    _law("shares", "any split of an update has the same samples", splits, _once),
    _law("tokens", "text survives its ids", round_trip, _once),
)
