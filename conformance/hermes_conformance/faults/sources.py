"""Faults of what a step reports of its rows."""

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import FAST_TABLES, TABLES, Function, Patcher


def _change_rows(change: Function, tables: tuple[str, ...] = TABLES) -> Plant:
    """Report change(rows) of these tables; the loss stays as it is."""

    def wrap(original):
        def faulty(*args):
            loss, rows = original(*args)
            return loss, change(rows)

        return faulty

    return lambda patcher: patcher.wrap_table("next_token_by_row", wrap, tables)


def _report_nothing(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, batch):
            loss, *others, _ = original(self, batch)
            return loss, *others, None

        return faulty

    patcher.wrap_method("learner", "Learner", "_accumulate", wrap)


def _leave_out_z_loss(patcher: Patcher) -> None:
    """A step on several sources has no z-loss."""
    patcher.wrap_table(
        "next_token_by_row", lambda o: lambda *args: o(*args[:4], 0.0, *args[5:]), TABLES
    )


FAULTS = (
    Fault(
        "a mixture has no z-loss",
        "mixtures",
        "L1/row-losses",
        "z_loss.targets/hot",
        _leave_out_z_loss,
    ),
    Fault(
        "a mixture has no z-loss in float32",
        "mixtures",
        "L2/row-losses",
        "z_loss.targets/hot",
        _leave_out_z_loss,
    ),
    Fault(
        "rows are reported in the other order",
        "mixtures",
        "L1/row-losses",
        "default/hot",
        _change_rows(lambda rows: rows[[1, 0]]),
    ),
    Fault("a step reports no rows", "mixtures", "L1/row-losses", "default/hot", _report_nothing),
    Fault(
        "rows of a chunked loss are off by 1e-4",
        "mixtures",
        "L2/row-losses",
        "slices.next token/hot",
        _change_rows(lambda rows: rows * (1 + 1e-4), FAST_TABLES),
    ),
)
