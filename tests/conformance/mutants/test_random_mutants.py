"""Random one-token changes are judged by the suite alone, and no source file is written."""

import hashlib
import json
from pathlib import Path

import pytest

from hermes_conformance.mutants import random_mutants
from hermes_conformance.mutants.backend_package import draw_mutants, find_package
from hermes_conformance.mutants.equivalents import Equivalent
from hermes_conformance.mutants.random_mutants import MutantResult, run_random_mutants
from hermes_conformance.mutants.results import count_results, make_header, read_results
from tests.conformance.support import run_hermes

LEAST_SHARE = 0.95  # of the changes that are not known to change nothing


def hash_package(package):
    files = sorted(path for path in package.folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_the_suite_catches_random_changes(backend):
    """The first twenty of seed 1; specs/backend.md has what two hundred gave."""
    package = find_package(backend)
    before = hash_package(package)
    results = list(run_random_mutants(backend, 20, seed=1))
    counts = count_results(results)
    assert counts["drawn"] == 20
    judged = counts["drawn"] - counts["equivalent"]
    missed = [f"{r.file}:{r.line}: {r.before} -> {r.after}: {r.how}" for r in results if r.survived]
    assert counts["caught"] >= LEAST_SHARE * judged, "\n".join(missed)
    assert hash_package(package) == before


def list_as_equivalent(monkeypatch, backend, *devices):
    """Say of the first changes of seed 0, one for each device, that they change nothing there."""
    package = find_package(backend)
    entries = [
        Equivalent(
            package.name, m.file, m.function, m.before, m.after, f"by {device}", False, device
        )
        for m, device in zip(draw_mutants(package, len(devices), 0), devices, strict=True)
    ]
    monkeypatch.setattr(random_mutants, "find_equivalents", lambda package: tuple(entries))


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        ("cpu", ["by cpu", "judged", "by None", "judged"]),
        ("cuda:1", ["judged", "by cuda", "by None", "judged"]),
    ],
)
def test_an_entry_of_a_device_holds_where_the_backend_is_judged_on_it(monkeypatch, here, expected):
    class Judge:
        """Finds nothing, on a device that is not there."""

        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def find_device(self, report):
            return here

        def judge(self, mutant, report):
            return MutantResult(
                *mutant.key[:1], mutant.line, *mutant.key[1:], False, "judged", "", 1, 0
            )

    monkeypatch.setattr(random_mutants, "_Judge", Judge)
    list_as_equivalent(monkeypatch, "torch", "cpu", "cuda", None)
    found = list(run_random_mutants("torch", 4))
    assert [result.equivalent or result.how for result in found] == expected
    assert [result.survived for result in found] == [why == "judged" for why in expected]


@pytest.mark.long
def test_the_device_of_a_real_run_is_known(monkeypatch):
    list_as_equivalent(monkeypatch, "numpy", "cpu", "cuda")
    one, other = run_random_mutants("numpy", 2, against="torch")
    assert (one.equivalent, one.caught) == ("by cpu", False)
    assert (other.equivalent, other.ran > 0) == ("", True)


@pytest.mark.long
def test_a_backend_of_a_third_party_is_changed_too_and_a_stopped_run_goes_on(tmp_path, capsys):
    """The oracle as a subject: a package of its own, which has no learner and is judged quickly."""
    file = tmp_path / "mutants.json"
    words = ["self-test", "--backend", "numpy", "--against", "torch", "--json", str(file)]
    run_hermes(capsys, *words, "--random", "3")
    written = json.loads(file.read_text())
    assert [written["drawn"], len(written["results"])] == [3, 3]
    assert written["caught"] >= 2
    _, out, _ = run_hermes(capsys, *words, "--random", "4")
    header = make_header("numpy", "torch", None, 0)
    results = read_results(file, header)
    assert len(results) == 4
    assert [result.how for result in results[:3]] == [r["how"] for r in written["results"]]
    assert all(result.before in out for result in results)
    assert read_results(file, make_header("numpy", "torch", None, 1)) == ()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--random", "0"], "--random 0 draws nothing"),
        (["--random", "3", "--fault", "rope*"], "--random plants none; give one"),
        (["--seed", "3"], "give --random N with it"),
        (["--random", "99999"], "--random 99999 is more"),
    ],
)
def test_what_makes_no_sense_is_refused(capsys, words, reason):
    code, _, err = run_hermes(capsys, "self-test", *words)
    assert code == 1
    assert reason in err


def test_results_of_another_kind_are_not_taken_for_ours(tmp_path):
    header = make_header("torch", "numpy", None, 0)
    path = Path(tmp_path, "f.json")
    assert read_results(path, header) == ()
    path.write_text("[1, 2]")
    assert read_results(path, header) == ()
