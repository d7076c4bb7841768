"""A certificate: what it must have, what it says it covers, and the checkpoint it is kept with."""

import json
from dataclasses import replace

import pytest

from hermes.checkpoint import Progress, open_checkpoint, save
from hermes.errors import HermesError
from hermes_conformance.certificate import html, issue, stored, verify
from hermes_conformance.laws import interchange
from hermes_conformance.suite import runner
from hermes_conformance.suite.selection import chosen, sides_of
from tests.conformance.support import SMALL, hermes, passed


def test_an_altered_certificate_is_refused(capsys, tmp_path):
    file = tmp_path / "c.json"
    hermes(capsys, "run", "--law", "L1/logits", *SMALL, "--json", str(file))
    made = json.loads(file.read_text())
    made["backend"] = "mlx"
    file.write_text(json.dumps(made))
    code, _, err = hermes(capsys, "verify", str(file))
    assert code == 1
    assert "it was altered after it was made" in err
    wrong = verify.check({**made, "golden": "0"}, {"torch": "0.1"})
    assert any("other golden vectors" in line for line in wrong)
    assert any("installed is 0.1" in line for line in wrong)


@pytest.mark.parametrize(
    "name", ["backend", "device", "versions", "passed", "whole", "levels", "conditions", "golden"]
)
def test_a_certificate_that_lacks_an_entry_is_refused_in_a_line(capsys, tmp_path, name):
    file = tmp_path / "c.json"
    sides = sides_of("torch")
    made = issue.certificate(sides, chosen(("L1",)), [passed()])
    for broken in ({**made, name: None}, {key: made[key] for key in made if key != name}):
        file.write_text(json.dumps(broken))
        code, _, err = hermes(capsys, "verify", str(file))
        assert code == 1
        assert f"not a whole certificate: '{name}' must be a " in err
        assert len(err.splitlines()) == 1
    file.write_text(json.dumps({**made, "levels": [{"level": "L1"}]}))
    _, _, err = hermes(capsys, "verify", str(file))
    assert "not a whole certificate: 'levels[0].passed' must be a bool; there is none" in err
    file.write_text(json.dumps({**made, "expected": [1]}))
    assert "'expected[0]' must be a dict; it is 1" in hermes(capsys, "verify", str(file))[2]


def sealed_again(made, file):
    stored.write(issue.sealed(made), file)
    return str(file)


@pytest.mark.parametrize(
    ("library", "told"),
    [("hermes", "hermes 0.0.1; installed is"), ("numpy", "numpy 0.0.1; installed is")],
)
def test_a_certificate_of_another_hermes_or_oracle_no_longer_holds(capsys, tmp_path, library, told):
    made = issue.certificate(sides_of("torch", "mlx"), chosen(("L1",)), [passed()])
    file = tmp_path / "c.json"
    assert hermes(capsys, "verify", sealed_again(made, file))[0] == 0
    older = {**made, "versions": {**made["versions"], library: "0.0.1"}}
    code, _, err = hermes(capsys, "verify", sealed_again(older, file))
    assert (code, f"it was made with {told}" in err) == (1, True)
    del older["versions"][library]
    assert hermes(capsys, "verify", sealed_again(older, file))[0] == 1


def changed(made, **law):
    (level,) = made["levels"]
    return {**made, "levels": [{**level, "laws": [{**level["laws"][0], **law}]}]}


def test_a_number_that_no_certificate_has_is_an_alteration(capsys, tmp_path):
    file = tmp_path / "c.json"
    made = issue.certificate(sides_of("torch"), chosen(("L1",)), [passed()])
    for value in (float("nan"), float("inf")):
        file.write_text(json.dumps(changed(made, bound=value)))
        code, _, err = hermes(capsys, "verify", str(file))
        assert (code, "it was altered after it was made" in err) == (1, True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda made: {**made, "levels": []}, "no level was judged"),
        (lambda made: changed(made, failed=5), "L1/logits has 1 cases, and counts"),
        (lambda made: changed(made, failed=1, passed=0), "L1 passed, and its laws say otherwise"),
        (
            lambda made: {**made, "levels": [{**made["levels"][0], "passed": False}]},
            "L1 did not pass, and its laws say otherwise",
        ),
        (lambda made: changed(made, ratio=2.0), "L1/logits is beyond its bound"),
        (lambda made: changed(made, declined=1, passed=0), "it passed, and nothing that asks"),
        (lambda made: {**made, "whole": True}, "it is whole, and the run was chosen by"),
        (lambda made: {**made, "chosen": []}, "it is partial, and the run was chosen by"),
        (lambda made: {**made, "complaints": ["stale"]}, "it passed, and something failed"),
        (
            lambda made: {**made, "expected": [{"law": "a", "case": "b", "reason": "c"}]},
            "0 failed as expected, and 1 are named",
        ),
    ],
)
def test_a_certificate_that_contradicts_itself_is_refused(capsys, tmp_path, change, told):
    made = issue.certificate(sides_of("torch"), chosen(("L1",)), [passed()])
    code, _, err = hermes(capsys, "verify", sealed_again(change(made), tmp_path / "c.json"))
    assert (code, f"it contradicts itself: {told}" in err, len(err.splitlines())) == (1, True, 1)


def test_what_was_covered_and_what_was_expected_to_fail_is_said(capsys, tmp_path):
    file = tmp_path / "c.json"
    known = replace(passed(runner.EXPECTED), message="the fused kernel")
    made = issue.certificate(sides_of("torch"), chosen(("L1",), ("L1/logits",)), [passed(), known])
    stored.write(made, file)
    _, out, _ = hermes(capsys, "verify", str(file))
    assert "\npartial: 1 law, 2 checks, by --level L1 --law L1/logits\n" in out
    assert "expected to fail: L1/logits on default/hot: the fused kernel" in out
    assert "<li>L1/logits on default/hot: the fused kernel</li>" in html.page(made)
    assert issue.scope({**made, "whole": True}) == "whole: 1 law, 2 checks"


@pytest.fixture
def checkpoint(tmp_path):
    return written_by(tmp_path, sides_of("torch").subject.backend.versions())


def written_by(tmp_path, versions):
    case = next(case for case in interchange.cases() if case.name == "move.tied/fresh")
    learner = sides_of("torch").subject.learner(case, "float32")
    progress = Progress(
        "conformance", 0, case.recipe, total_steps=9, backend="torch", versions=versions
    )
    return save(tmp_path, learner.state(), spec=case.spec, progress=progress)


def test_a_certificate_is_kept_with_a_checkpoint_and_speaks_for_it_alone(
    capsys, tmp_path, checkpoint
):
    run = ["run", "--law", "L1/logits", *SMALL, "--checkpoint", str(tmp_path)]
    assert hermes(capsys, "verify", str(checkpoint))[2].endswith(
        "has no certificate; hermes conformance run --checkpoint makes one\n"
    )
    assert hermes(capsys, *run)[0] == 0
    assert open_checkpoint(checkpoint).manifest.step == 0  # it is whole as before
    code, out, _ = hermes(capsys, "verify", str(checkpoint))
    assert code == 0
    assert out.startswith("torch against numpy on cpu passed L1 (")
    code, out, err = hermes(capsys, *run, "--backend", "mlx")
    assert code == 1
    assert not out
    assert "torch wrote the checkpoint, so a certificate of mlx would not speak for it" in err
    assert hermes(capsys, "verify", str(tmp_path))[0] == 0
    opened, made = open_checkpoint(checkpoint), stored.read(checkpoint)
    assert stored.strangers({**made, "backend": "mlx"}, opened) == [
        "it judged mlx; torch wrote the checkpoint"
    ]
    assert stored.strangers({**made, "checkpoint": "0"}, opened) == [
        "it was made for another checkpoint"
    ]
    (wrong,) = stored.strangers({**made, "versions": {"torch": "0.1"}}, opened)
    assert wrong.startswith("it judged torch 0.1; ")


def test_a_checkpoint_of_another_version_takes_no_certificate(capsys, tmp_path):
    written_by(tmp_path, {"torch": "2.0"})
    run = ["run", "--law", "L1/logits", *SMALL, "--checkpoint", str(tmp_path)]
    code, out, err = hermes(capsys, *run)
    assert (code, out) == (1, "")
    assert "torch 2.0 wrote the checkpoint, so a certificate of torch 2" in err
    assert "judge it where torch 2.0 is, or leave --checkpoint out" in err


def test_a_certificate_of_another_version_of_the_backend_no_longer_holds(capsys, checkpoint):
    run = ["run", "--law", "L1/logits", *SMALL, "--checkpoint", str(checkpoint)]
    assert hermes(capsys, *run)[0] == 0
    made = stored.read(checkpoint)
    older = {**made, "versions": {**made["versions"], "torch": "2.0"}}
    stored.write(issue.sealed(older), checkpoint / stored.NAME)
    code, _, err = hermes(capsys, "verify", str(checkpoint))
    assert code == 1
    assert "it was made with torch 2.0; installed is 2" in err


def test_products_that_an_environment_makes_shorter_are_refused(monkeypatch, sides):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(HermesError, match="NVIDIA_TF32_OVERRIDE=1"):
        issue.require_float32(sides("torch"))
