"""Certificates kept with checkpoints."""

import pytest

from hermes.checkpoint import Progress, open_checkpoint, save
from hermes_conformance.certificate import storage
from hermes_conformance.certificate.issue import seal
from hermes_conformance.laws import interchange
from hermes_conformance.suite.selection import load_backends
from tests.conformance.support import SMALL, run_hermes


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path, load_backends("torch").subject.backend.versions())


def write_checkpoint(tmp_path, versions):
    case = next(case for case in interchange.make_cases() if case.name == "move.tied/fresh")
    learner = load_backends("torch").subject.make_learner(case, "float32")
    progress = Progress(
        "conformance", 0, case.recipe, total_steps=9, backend="torch", versions=versions
    )
    return save(tmp_path, learner.state(), spec=case.spec, progress=progress)


def test_a_certificate_is_kept_with_a_checkpoint_and_speaks_for_it_alone(
    capsys, tmp_path, checkpoint
):
    run = ["run", "--law", "L1/logits", *SMALL, "--checkpoint", str(tmp_path)]
    assert run_hermes(capsys, "verify", str(checkpoint))[2].endswith(
        "has no certificate; hermes conformance run --checkpoint makes one\n"
    )
    assert run_hermes(capsys, *run)[0] == 0
    assert open_checkpoint(checkpoint).manifest.step == 0  # it is whole as before
    code, out, _ = run_hermes(capsys, "verify", str(checkpoint))
    assert code == 0
    assert out.startswith("torch against numpy passed L1 on cpu (")
    code, out, err = run_hermes(capsys, *run, "--backend", "mlx")
    assert code == 1
    assert not out
    assert "torch wrote the checkpoint, so a certificate of mlx would not speak for it" in err
    assert run_hermes(capsys, "verify", str(tmp_path))[0] == 0
    opened, certificate = open_checkpoint(checkpoint), storage.read_certificate(checkpoint)
    assert storage.find_mismatches({**certificate, "backend": "mlx"}, opened) == [
        "it judged mlx; torch wrote the checkpoint"
    ]
    assert storage.find_mismatches({**certificate, "checkpoint": "0"}, opened) == [
        "it was made for another checkpoint"
    ]
    (wrong,) = storage.find_mismatches({**certificate, "versions": {"torch": "0.1"}}, opened)
    assert wrong.startswith("it judged torch 0.1; ")


def test_a_checkpoint_of_another_version_takes_no_certificate(capsys, tmp_path):
    write_checkpoint(tmp_path, {"torch": "2.0"})
    run = ["run", "--law", "L1/logits", *SMALL, "--checkpoint", str(tmp_path)]
    code, out, err = run_hermes(capsys, *run)
    assert (code, out) == (1, "")
    assert "torch 2.0 wrote the checkpoint, so a certificate of torch 2" in err
    assert "judge it where torch 2.0 is, or leave --checkpoint out" in err


def test_a_certificate_of_another_version_of_the_backend_no_longer_holds(capsys, checkpoint):
    run = ["run", "--law", "L1/logits", *SMALL, "--checkpoint", str(checkpoint)]
    assert run_hermes(capsys, *run)[0] == 0
    certificate = storage.read_certificate(checkpoint)
    older = {**certificate, "versions": {**certificate["versions"], "torch": "2.0"}}
    storage.write_certificate(seal(older), checkpoint / storage.NAME)
    code, _, err = run_hermes(capsys, "verify", str(checkpoint))
    assert code == 1
    assert "it was made with torch 2.0; installed is 2" in err
