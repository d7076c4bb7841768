"""What tests of the suite share: the command in this process, cases, laws, planted faults."""

from contextlib import ExitStack, contextmanager

from hermes_cli import main
from hermes_conformance.cases.standard import make_standard_cases
from hermes_conformance.faults.patcher import Patcher
from hermes_conformance.faults.self_test import FAULTS
from hermes_conformance.laws import list_laws
from hermes_conformance.suite import runner

SMALL = ["--case", "default/*"]
LAWS = {law.id: law for law in list_laws()}


def run_hermes(capsys, *words):
    """The exit code, stdout and stderr of `hermes conformance` in this process."""
    code = main.run(["conformance", *words])
    out, err = capsys.readouterr()
    return code, out, err


def make_outcome(status=runner.PASSED):
    return runner.Outcome(LAWS["L1/logits"], "default/hot", status, devices=("cpu",))


def find_case(name):
    return next(case for case in make_standard_cases() if case.name == name)


def find_fault(name):
    return next(fault for fault in FAULTS if fault.name == name)


@contextmanager
def plant(name, backend="torch"):
    """The fault, planted in a backend."""
    fault = find_fault(name)
    with ExitStack() as stack:
        fault.plant(Patcher(backend, stack))
        yield fault
