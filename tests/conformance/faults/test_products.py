"""Products in their fastest forms have cases that meet them, and faults that are caught."""

import importlib

import pytest

from hermes.interface import IGNORE
from hermes.numerics.chunking import count_chunk_tokens, make_spans
from hermes_conformance.faults import products, rows, self_test
from hermes_conformance.laws import kernel_cases
from tests.conformance.support import LAWS

SLICES = [case for case in kernel_cases.make_cases() if case.name.startswith("slices.")]
# Those of a large vocabulary, and of what compiles.
SLOW = {products.SLICES}
ENDED = [fault for fault in rows.FAULTS if "has ended" in fault.name]
QUICK = [fault for fault in products.FAULTS if fault.case not in SLOW] + ENDED


def list_chunks(case, backend):
    """The sizes of the chunks that a backend on a CPU cuts the scores of a CPU's case into."""
    module = importlib.import_module(f"hermes_{backend}.chunked_loss")
    limit = module.CHUNK_LOGITS
    size = count_chunk_tokens(case.spec.vocab_size, limit["cpu"] if backend == "torch" else limit)
    counts = (case.batch.targets[0] != IGNORE).sum(axis=1)
    P = case.B // 2
    groups = counts[:P] + counts[P:] if case.batch.pairs else [counts.sum()]
    return [[end - start for start, end in make_spans(0, int(n), size)] for n in groups]


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("case", SLICES, ids=lambda case: case.name)
def test_cases_of_slices_take_several_chunks_of_which_the_last_is_a_part_of_one(backend, case):
    """A law on a single chunk would see no fault of the others."""
    largest = max(list_chunks(case, backend), key=len)
    assert len(largest) > 1
    assert largest[-1] < largest[0]
    assert case.spec.vocab_size % 16


def run_faults(backends, faults):
    selection = self_test.FaultSelection(tuple(faults), ())
    results = list(self_test.run_self_test(backends, selection))
    missed = [f"{r.fault}: {r.law} on {r.case}: {r.how}" for r in results if not r.caught]
    assert not missed, "\n".join(missed)
    return results


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_faults_of_products_and_of_ended_rows_are_caught(backends, backend):
    results = run_faults(backends(backend), QUICK)
    assert len(results) == sum(fault.only in (None, backend) for fault in QUICK)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_faults_of_chunks_and_of_what_compiles_are_caught(backends, backend):
    faults = [fault for fault in self_test.FAULTS if fault.case.startswith("slices.")]
    results = run_faults(backends(backend), faults)
    assert len(results) == sum(fault.only in (None, backend) for fault in faults)


def test_mlx_declines_to_recompute_some_by_name(backends):
    law = LAWS["L4/selective-checkpointing"]
    case = next(c for c in self_test.index_cases().values() if c.name == "train.dropout/fresh")
    outcome = self_test.judge_case(law, case, backends("mlx"))
    assert outcome.status == "declined"
    assert "recomputes whole blocks" in outcome.message
