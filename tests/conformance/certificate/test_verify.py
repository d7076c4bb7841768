"""A certificate holds only if it is complete, unaltered, consistent, and of what is installed."""

import json
from dataclasses import replace

import pytest

from hermes_conformance.certificate import storage, verify
from hermes_conformance.certificate.issue import issue_certificate, seal
from hermes_conformance.laws import list_laws
from hermes_conformance.suite.selection import load_backends, make_selection
from tests.conformance.support import SMALL, make_outcome, run_hermes


def test_an_altered_certificate_is_refused(capsys, tmp_path):
    file = tmp_path / "c.json"
    run_hermes(capsys, "run", "--law", "L1/logits", *SMALL, "--json", str(file))
    certificate = json.loads(file.read_text())
    certificate["backend"] = "mlx"
    file.write_text(json.dumps(certificate))
    code, _, err = run_hermes(capsys, "verify", str(file))
    assert code == 1
    assert "it was altered after it was made" in err
    wrong = verify.check_certificate({**certificate, "golden": "0"}, {"torch": "0.1"})
    assert any("other golden vectors" in line for line in wrong)
    assert any("installed is 0.1" in line for line in wrong)


@pytest.mark.parametrize(
    "name", ["backend", "device", "versions", "passed", "whole", "levels", "conditions", "golden"]
)
def test_a_certificate_that_lacks_an_entry_is_refused_in_a_line(capsys, tmp_path, name):
    file = tmp_path / "c.json"
    backends = load_backends("torch")
    certificate = issue_certificate(backends, make_selection(("L1",)), [make_outcome()])
    for broken in (
        {**certificate, name: None},
        {key: certificate[key] for key in certificate if key != name},
    ):
        file.write_text(json.dumps(broken))
        code, _, err = run_hermes(capsys, "verify", str(file))
        assert code == 1
        assert f"not a whole certificate: '{name}' must be a " in err
        assert len(err.splitlines()) == 1
    file.write_text(json.dumps({**certificate, "levels": [{"level": "L1"}]}))
    _, _, err = run_hermes(capsys, "verify", str(file))
    assert "not a whole certificate: 'levels[0].passed' must be a bool; there is none" in err
    file.write_text(json.dumps({**certificate, "expected": [1]}))
    assert "'expected[0]' must be a dict; it is 1" in run_hermes(capsys, "verify", str(file))[2]


def seal_again(certificate, file):
    storage.write_certificate(seal(certificate), file)
    return str(file)


@pytest.mark.parametrize(
    ("library", "told"),
    [("hermes", "hermes 0.0.1; installed is"), ("numpy", "numpy 0.0.1; installed is")],
)
def test_a_certificate_of_another_hermes_or_oracle_no_longer_holds(capsys, tmp_path, library, told):
    certificate = issue_certificate(
        load_backends("torch", "mlx"), make_selection(("L1",)), [make_outcome()]
    )
    file = tmp_path / "c.json"
    assert run_hermes(capsys, "verify", seal_again(certificate, file))[0] == 0
    older = {**certificate, "versions": {**certificate["versions"], library: "0.0.1"}}
    code, _, err = run_hermes(capsys, "verify", seal_again(older, file))
    assert (code, f"it was made with {told}" in err) == (1, True)
    del older["versions"][library]
    assert run_hermes(capsys, "verify", seal_again(older, file))[0] == 1


def change_law(certificate, **law):
    (level,) = certificate["levels"]
    return {**certificate, "levels": [{**level, "laws": [{**level["laws"][0], **law}]}]}


def test_nan_and_infinity_are_none_of_a_certificate(capsys, tmp_path):
    file = tmp_path / "c.json"
    certificate = issue_certificate(
        load_backends("torch"), make_selection(("L1",)), [make_outcome()]
    )
    for value in (float("nan"), float("inf")):
        file.write_text(json.dumps(change_law(certificate, bound=value)))
        code, _, err = run_hermes(capsys, "verify", str(file))
        assert (code, "is not JSON; null is" in err) == (1, True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda certificate: {**certificate, "levels": []}, "no level was judged"),
        (
            lambda certificate: change_law(certificate, failed=5),
            "L1/logits has 1 case, and counts",
        ),
        (
            lambda certificate: change_law(certificate, failed=1, passed=0),
            "L1 passed, and its laws say otherwise",
        ),
        (
            lambda certificate: {
                **certificate,
                "levels": [{**certificate["levels"][0], "passed": False}],
            },
            "L1 did not pass, and its laws say otherwise",
        ),
        (lambda certificate: change_law(certificate, ratio=2.0), "L1/logits is beyond its bound"),
        (
            lambda certificate: change_law(certificate, declined=1, passed=0),
            "it passed, and no law that needs the",
        ),
        (
            lambda certificate: {**certificate, "whole": True},
            "it is whole, and the run was chosen by",
        ),
        (
            lambda certificate: {**certificate, "chosen": []},
            "it is partial, and the run was chosen by",
        ),
        (
            lambda certificate: {**certificate, "complaints": ["stale"]},
            "it passed, and something failed",
        ),
        (
            lambda certificate: {
                **certificate,
                "expected": [{"law": "a", "case": "b", "reason": "c"}],
            },
            "0 failed as expected, and 1 are named",
        ),
        (
            lambda certificate: {**certificate, "whole": True, "chosen": []},
            "it is whole, and lacks L0/",
        ),
        (
            lambda certificate: {**certificate, "precisions": ["float64", "bfloat16"]},
            "it was judged in bfloat16, and no law of that precision was",
        ),
    ],
)
def test_a_certificate_that_contradicts_itself_is_refused(capsys, tmp_path, change, told):
    certificate = issue_certificate(
        load_backends("torch"), make_selection(("L1",)), [make_outcome()]
    )
    code, _, err = run_hermes(
        capsys, "verify", seal_again(change(certificate), tmp_path / "c.json")
    )
    assert (code, f"it contradicts itself: {told}" in err, len(err.splitlines())) == (1, True, 1)


@pytest.mark.parametrize(
    ("on", "told"),
    [
        ([], "not a whole certificate: 'logits.on' must be a dict; it is []"),
        (None, "not a whole certificate: 'logits.on' must be a dict; it is None"),
        ({"cpu": 2}, "it contradicts itself: L1/logits counts"),
        ({"cpu": -1}, "it contradicts itself: L1/logits counts"),
        ({"cpu": "1"}, "it contradicts itself: L1/logits counts"),
    ],
)
def test_passes_by_device_that_no_run_counts_are_refused(capsys, tmp_path, on, told):
    certificate = issue_certificate(
        load_backends("torch"), make_selection(("L1",)), [make_outcome()]
    )
    changed = change_law(certificate, on=on)
    code, _, err = run_hermes(capsys, "verify", seal_again(changed, tmp_path / "c.json"))
    assert (code, len(err.splitlines())) == (1, 1)
    assert told in err


def test_a_whole_run_judges_what_backends_of_its_kind_are_asked():
    """All laws of those needs, but the long ones."""
    certificate = issue_certificate(load_backends("torch"), make_selection(), [])
    levels: dict[str, list] = {}
    for law in list_laws():
        if law.needs in ("no backend", "forward", "learner") and not law.long:
            found = issue_certificate(
                load_backends("torch"),
                make_selection(),
                [replace(make_outcome(), law=law)],
            )["levels"][0]
            levels.setdefault(law.level, []).extend(found["laws"])
    whole = [{"level": name, "title": "", "passed": True, "laws": levels[name]} for name in levels]
    certificate = {**certificate, "levels": whole, "passed": True, "precisions": ["float64"]}
    assert verify.check_certificate(seal(certificate)) == []
    del whole[-1]["laws"][-1]
    (line,) = verify.check_certificate(seal(certificate))
    assert line.startswith("it contradicts itself: it is whole, and lacks L6/")
