"""The command in this process, and an outcome that passed."""

from hermes_cli import main
from hermes_conformance.suite import runner
from hermes_conformance.suite.selection import every_law

SMALL = ["--case", "default/*"]


def hermes(capsys, *words):
    code = main.run(["conformance", *words])
    out, err = capsys.readouterr()
    return code, out, err


def passed(status=runner.PASSED):
    law = next(law for law in every_law() if law.id == "L1/logits")
    return runner.Outcome(law, "default/hot", status)
