"""Faults of the numbers that steps report, and of when those are read."""

from dataclasses import fields, replace
from typing import Any

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher
from hermes_conformance.faults.played_copies import play_late_copies

LAW, CASE, PART = "L4/late-numbers", "train.hot/hot", "optimizer"


class _NewestNumber:
    """A number of the step that is the newest when it is read."""

    def __init__(self, reports: list[Any], name: str):
        self._reports, self._name = reports, name

    def __float__(self) -> float:
        return float(getattr(self._reports[-1], self._name))


def _change_report(change: Function) -> Plant:
    """A step reports change(its learner's reports so far, its own the last of them)."""

    def wrap(original):
        def step(self, batch, lr):
            self.__dict__.setdefault("_reports", []).append(original(self, batch, lr))
            return change(self._reports)

        return step

    return lambda patcher: patcher.wrap_method("learner", "Learner", "step", wrap)


def _bind_newest(*names: str) -> Function:
    def change(reports):
        told = [name for name in names if getattr(reports[-1], name) is not None]
        return replace(reports[-1], **{name: _NewestNumber(reports, name) for name in told})

    return change


def _report_earlier(reports):
    """All numbers but the step's own one are those of the step before."""
    earlier = reports[-2:][0]
    names = [one.name for one in fields(earlier) if one.name != "step"]
    return replace(reports[-1], **{name: getattr(earlier, name) for name in names})


def _skip_waiting(patcher: Patcher) -> None:
    """A copy is read without waiting for it."""

    def wrap(original):
        def begin(self, tensor):
            host, _ = self._lane.copy(tensor.detach())
            return lambda: host

        return begin

    patcher.wrap_method("host_copies", "HostCopies", "begin", wrap)


def _share_memory(patcher: Patcher) -> None:
    """Every step's numbers are gathered in the same memory of the device."""

    def wrap(original):
        def begin(self, tensor):
            gathered = self.__dict__.setdefault("_gathered", tensor.clone())
            return original(self, gathered.copy_(tensor))

        return begin

    patcher.wrap_method("host_copies", "HostCopies", "begin", wrap)


FAULTS = (
    Fault(
        "a loss that is read late is that of the newest step",
        PART,
        LAW,
        CASE,
        _change_report(_bind_newest("loss")),
    ),
    Fault(
        "whether a step was applied is read of the newest one",
        PART,
        LAW,
        CASE,
        _change_report(_bind_newest("applied")),
    ),
    Fault(
        "a loss scale that is read late is that of the newest step",
        PART,
        "L4/late-numbers-float16",
        "train.dropout/fresh",
        _change_report(_bind_newest("loss_scale")),
    ),
    Fault(
        "a step reports the numbers of the one before",
        PART,
        LAW,
        CASE,
        _change_report(_report_earlier),
    ),
    Fault(
        "a step's numbers are read before they have arrived",
        PART,
        LAW,
        CASE,
        _skip_waiting,
        "torch",
        play_late_copies,
    ),
    Fault(
        "the numbers of two steps share memory of the device",
        PART,
        LAW,
        CASE,
        _share_memory,
        "torch",
        play_late_copies,
    ),
)
