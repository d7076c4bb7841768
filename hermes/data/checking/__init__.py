"""Looks through data for what would spoil a run, before anybody pays for one."""

from hermes.data.checking.bill import Bill, RunPlan
from hermes.data.checking.checker import check_text
from hermes.data.checking.findings import KINDS, CheckOptions, Findings, Places, Sample

__all__ = [
    "KINDS",
    "Bill",
    "CheckOptions",
    "Findings",
    "Places",
    "RunPlan",
    "Sample",
    "check_text",
]
