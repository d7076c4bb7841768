"""What L6 counts: which kernels run, how often the host waits, and how many graphs there are."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from hermes.errors import Unsupported
from hermes.interface import Learner
from hermes.work_counts import CountsWork, WorkCounts
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.compiled import catch_compiler_failures
from hermes_conformance.laws.generation import can_decode
from hermes_conformance.measure.compare import Measurement, compare_values
from hermes_conformance.measure.law import Check
from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.measure.tolerance import EXACT


def make_learner(subject: BackendUnderTest, case: Case, precision: str, **fields: Any) -> Learner:
    """A learner as production has it: not deterministic."""
    return subject.make_learner(case, precision, deterministic=False, **fields)


def _count_work(subject: BackendUnderTest, run: Any) -> WorkCounts:
    backend: object = subject.backend
    if not isinstance(backend, CountsWork):
        raise Unsupported(
            f"hermes_{subject.name} does not count what it runs; it has no count_work"
        )
    return backend.count_work(run)


def _judge_attention(counts: WorkCounts, calls: int, where: str) -> Measurement:
    """Whether attention ran fused so often, or is written out for a reason; its name is noted."""
    names = ", ".join(counts.attention) or "no operation of that name"
    fused = counts.fused_attention >= calls
    reason = "" if fused else counts.unfused_reason
    note = f"attention {where}: {names}" + (f" ({reason})" if reason else "")
    what = f"attention {where} runs written out, without a reason, as {names}"
    return Measurement(0.0 if fused or reason else 1.0, EXACT, what, note=note)


def make_kernels_check(precision: str) -> Check:
    """A check of what an eager learner and a decoder run in a format."""

    def kernels(case: Case, backends: Backends) -> Iterator[Measurement]:
        """Which kernels an eager step and a decoder run, and how often the host waits."""
        subject, calls = backends.subject, case.spec.num_layers
        learner = make_learner(subject, case, precision)
        rate = case.recipe.lr
        step = _count_work(subject, lambda: float(learner.step(case.batch, rate).loss))
        yield _judge_attention(step, calls * case.A, "in an update")
        waits = max(0, step.host_reads - 1)
        yield compare_values("waits of an update whose loss is read, beyond one", waits, 0, EXACT)
        model = subject.build_model(case, precision, deterministic=False)
        whole = _count_work(subject, lambda: model.logits(case.tokens, case.segments))
        yield _judge_attention(whole, calls, "in one pass")
        if can_decode(case):
            decoder = model.decoder(case.B, case.T)
            ends = (0, case.T // 2, case.T - 1, case.T)
            for what, (a, b) in zip(("a prefill", "a later read", "a token"), pairwise(ends),
                                    strict=True):  # fmt: skip
                read = _count_work(subject, lambda a=a, b=b: decoder.advance(case.tokens[:, a:b]))
                yield _judge_attention(read, calls, f"in {what}")
                waits = max(0, read.host_reads - 1)
                yield compare_values(f"waits of {what} beyond one", waits, 0, EXACT)

    return kernels


def make_graphs_check(precision: str) -> Check:
    """A check of what is compiled of a learner in a format."""

    def graphs(case: Case, backends: Backends) -> Iterator[Measurement]:
        """A compiled learner is one graph for each shape, and waits no more than an eager one."""
        subject, batch, rate = backends.subject, case.batch, case.recipe.lr
        half = Case(case.name, case.spec, case.make_weights, case.A, case.B, case.T // 2,
                    case.packed, recipe=case.recipe).batch  # fmt: skip
        made: list[Learner] = []

        def start() -> None:
            made.append(make_learner(subject, case, precision, compile=True))
            float(made[0].step(batch, rate).loss)

        with catch_compiler_failures() as failures:
            first = _count_work(subject, start)
            again = _count_work(subject, lambda: float(made[0].step(batch, rate).loss))
            other = _count_work(subject, lambda: float(made[0].step(half, rate).loss))
            back = _count_work(subject, lambda: float(made[0].step(batch, rate).loss))
        yield compare_values("failures to compile", failures, [], EXACT)
        breaks = first.graph_breaks + other.graph_breaks
        yield compare_values("graph breaks", breaks, 0, EXACT)
        # The loss with its gradients is one graph; where the update is compiled, it is another.
        yield compare_values("graphs of a learner are 1 or 2", first.graphs in (1, 2), True, EXACT)
        for what, counts, most in (("the same shape", again, 0), ("another shape", other, 1),
                                   ("a shape seen before", back, 0)):  # fmt: skip
            extra = max(0, counts.graphs - most)
            yield compare_values(f"graphs of {what}, beyond {most}", extra, 0, EXACT)
        yield _judge_attention(again, case.spec.num_layers * case.A, "in a compiled update")
        waits = max(0, again.host_reads - 1)
        yield compare_values("waits of a compiled update beyond one", waits, 0, EXACT)

    return graphs
