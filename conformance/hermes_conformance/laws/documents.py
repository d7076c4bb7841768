"""L1 of the document mask, as `hermes train --document-mask` makes its batches.

A batch is drawn by the library's own dataset from a stream of documents. What it must come to is
made from the stream alone: the documents of each window, one at a time, in rows without segments.
"""

from collections.abc import Iterator
from functools import cache
from itertools import chain, pairwise

import numpy as np

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.interface import IGNORE, Batch, LossCounts, Tensors
from hermes.spec import AttentionSpec
from hermes_conformance.cases import attention_specs
from hermes_conformance.cases.case import Case
from hermes_conformance.cases.specs import MASKS, POSITIONS, make_spec
from hermes_conformance.cases.weights import draw_hot
from hermes_conformance.laws.gradients import choose_scale, compare_gradient, has_gradient
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_absolute, compare_values
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends

EOS = 5
PREFIX = "documents."
# Of the documents, without their ends: one of no token, some that windows of ten cut, and one that
# is longer than a window.
LENGTHS = (3, 0, 7, 1, 14, 2, 5, 4, 1)


@cache
def make_cases() -> tuple[Case, ...]:
    """Every position encoding with and without a window, and without a causal mask."""
    every = POSITIONS | attention_specs.POSITIONS
    found = []
    for position, encoding in every.items():
        for label, (causal, window) in MASKS.items():
            if label == "self":
                continue  # attends to nothing else, masked or not
            attention = AttentionSpec(
                4, 2, causal=causal, window_size=window, position_encoding=encoding
            )
            case = Case(f"{PREFIX}{position}/{label}/hot", make_spec(attention), draw_hot)
            if causal or not case.depends_on_length:  # a padded row would be another length
                found.append(case)
    return tuple(found)


def draw_stream(case: Case) -> list[list[int]]:
    """The documents of a case, each with its end."""
    below = case.spec.vocab_size - 1
    words = iter(case.draw_integers("documents", sum(LENGTHS), below).tolist())
    return [[(w := next(words)) + (w >= EOS) for _ in range(n)] + [EOS] for n in LENGTHS]


def draw_batch(case: Case, documents: list[list[int]]) -> Batch:
    """Every window of the documents, as training draws them. (A, B, T)"""
    stream = TokenStream.from_ids(chain(*documents))
    data = TextDataset(
        stream,
        seq_len=case.T,
        vocab_size=case.spec.vocab_size,
        document_mask=True,
        eos_id=EOS,
    )
    rows = len(data.train) // case.A
    batch, _ = data.draw_batch(Cursor(), samples=len(data.train), micro_batch=rows, accum=case.A)
    return batch


def split_windows(case: Case, documents: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    """Inputs and targets of the documents, and parts of documents, in each window of T + 1 tokens.

    A target is the next token of the same document, or IGNORE behind its last one.
    """
    ids = [*chain(*documents)]
    parts = []
    for start in range(0, len(ids) - case.T, case.T):
        window = ids[start : start + case.T + 1]
        ends = [at + 1 for at, token in enumerate(window) if token == EOS]
        for a, b in pairwise(sorted({0, *ends, len(window)})):
            tokens = window[a : min(b, case.T)]
            targets = [*window[a + 1 : b], IGNORE][: len(tokens)]
            if targets and targets[0] != IGNORE:
                parts.append((tokens, targets))
    return parts


def make_single_batches(
    case: Case, parts: list[tuple[list[int], list[int]]], counts: LossCounts
) -> Iterator[Batch]:
    """Batches of one document a row, without segments, as shares of a step of these counts.

    Rows of a batch have equal lengths; where lengths choose tables of rope, all have the window's.
    """
    lengths = sorted({len(tokens) for tokens, _ in parts})
    groups = [[part for part in parts if len(part[0]) == length] for length in lengths]
    if case.depends_on_length:
        groups, lengths = [parts], [case.T]
    for T, group in zip(lengths, groups, strict=True):
        tokens = np.zeros((1, len(group), T), np.int32)
        targets = np.full(tokens.shape, IGNORE, np.int32)
        for row, part in enumerate(group):
            tokens[0, row, : len(part[0])], targets[0, row, : len(part[1])] = part
        rows = np.arange(len(group), dtype=np.uint32)[None, :]
        yield Batch(tokens, targets, rows, global_counts=counts)


def loss(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The summed loss of a batch is that of its documents one at a time; so is the reference's."""
    documents = draw_stream(case)
    batch, parts = draw_batch(case, documents), split_windows(case, documents)
    count = sum(target != IGNORE for _, targets in parts for target in targets)
    yield compare_values("targets", batch.counts.terms, count, tolerance.EXACT)
    together = backends.subject.build_model(case).loss(batch) * batch.num_terms
    for what, one in (("subject", backends.subject), ("reference", backends.reference)):
        model = one.build_model(case)
        singles = make_single_batches(case, parts, batch.counts)
        alone = sum(model.loss(single) * single.num_terms for single in singles)
        bound = tolerance.LOSS_64.scale_to(alone)
        yield compare_absolute(f"summed loss, alone on the {what}", together, alone, bound)


def gradients(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The gradient of a batch is the sum of its documents' gradients one at a time."""
    documents = draw_stream(case)
    batch, parts = draw_batch(case, documents), split_windows(case, documents)
    learner = backends.subject.make_learner(case)
    _, together = learner.grads(batch)
    whole = {name: np.array(value) for name, value in together.items()}
    alone: list[Tensors] = []
    for single in make_single_batches(case, parts, batch.counts):
        _, found = learner.grads(single)
        alone.append({name: np.array(value) for name, value in found.items()})
    for name, value in whole.items():
        if has_gradient(case, name):
            total = sum(np.asarray(one[name]) for one in alone)
            what = f"gradient of {name}"
            yield compare_gradient(what, value, total, choose_scale(whole, name))


is_of_documents = match_names(PREFIX)

LAWS = (
    Law(
        "L1",
        "documents",
        "a row of documents has the loss of each alone",
        tolerance.LOSS_64,
        loss,
        is_of_documents,
    ),
    Law(
        "L1",
        "document-gradients",
        "a row of documents has the gradients of each alone",
        tolerance.GRADIENT_64,
        gradients,
        is_of_documents,
        "learner",
    ),
)
