"""benchmarks/device.py on a CPU: its parts, its deadlines, and a certificate that verifies."""

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from hermes.errors import Unsupported
from hermes.interface import Options, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes_conformance.certificate.verify import check_certificate
from hermes_conformance.laws import LEVELS
from tests.backends.support import make_spec
from tests.packages import ROOT
from tests.waiting import PATIENCE

sys.path.insert(0, str(ROOT / "benchmarks"))
import device
from device_decoding import decode_greedily
from device_parts import list_goes
from device_peers import PEERS, list_peers
from device_setting import Setting
from device_training import describe_speed, measure_training
from device_turns import find_idle_share, take_turns


def start_check(path, *words):
    """The check as a process."""
    command = [sys.executable, ROOT / "benchmarks" / "device.py", "--json", path, "--small"]
    return subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run_check(folder, *words, exit_code=0):
    """Run the check; what it prints, and its JSON."""
    path = folder / "out.json"
    process = start_check(path, *words)
    told, noise = process.communicate()
    assert process.returncode == exit_code, noise
    return told, json.loads(path.read_text())


def test_a_part_that_is_late_is_ended_and_named(tmp_path):
    told, found = run_check(tmp_path, "--only", "training", "--scale", "0.001", exit_code=1)
    assert "training: ended after its 0 s, so what is missing above was not measured" in told
    assert found["device_check"]["training"]["trouble"] == "ended after its 0 s"
    assert check_certificate(found) == ["the format is None, this version reads "
                                        "'hermes-conformance/1'"]  # fmt: skip


def test_an_interrupted_check_keeps_what_it_found(tmp_path):
    parts = "versions", "training", "ratios", "decoding"
    words = [word for name in parts for word in ("--only", name)]
    process = start_check(tmp_path / "out.json", "--backend", "mlx", *words)
    for line in process.stderr:
        if line.startswith("training, at most"):
            process.terminate()  # SIGINT is ignored in a job of the background
            break
    told, noise = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, noise
    assert "Traceback" not in noise
    assert "interrupted, so what is missing above was not measured" in told
    check = json.loads((tmp_path / "out.json").read_text())["device_check"]
    assert check["versions"]["versions"]
    assert "decoding" not in check
    assert "\n".join(check["verdict"]) == told.strip()


def test_a_part_that_has_nowhere_to_write_says_so(tmp_path, monkeypatch, capfd):
    """A full disk of temporary files was "failed with exit code 1"."""
    gone = nullcontext(str(tmp_path / "absent"))
    monkeypatch.setattr(device.tempfile, "TemporaryDirectory", lambda: gone)
    setting, calm = Setting.choose("mlx", "cpu", small=True), SimpleNamespace(number=None)
    found = device.run_part("versions", setting, PATIENCE, calm)
    assert found["trouble"] == f"{tmp_path} could not be written (TMPDIR chooses another folder)"
    said = capfd.readouterr().err
    assert f"Error: cannot write {tmp_path}/absent/result.json: no such file or directory" in said


@pytest.mark.parametrize(
    ("path", "reason"),
    [("absent/out.json", "no such file or directory"), ("/dev/full", "no space")],
)
def test_a_result_that_cannot_be_written_is_told_after_the_first_part(tmp_path, path, reason):
    process = start_check(tmp_path / path, "--backend", "mlx", "--scale", "0.001")
    told, noise = process.communicate()
    assert process.returncode == 1
    (error,) = (line for line in noise.splitlines() if line.startswith("Error:"))
    assert error.startswith(f"Error: cannot write {tmp_path / path}: {reason}")
    assert (told, noise.count("at most")) == ("", 1)


def test_an_error_that_ends_a_part_is_its_verdict(tmp_path):
    words = ["--json", tmp_path / "out.json", "--part", "versions", "--backend", "mlx"]
    (tmp_path / "device_parts.py").write_text(
        "def report(setting, keep):\n"
        "    keep({'name': 'x'})\n"
        "    raise ValueError('no such\\nthing')\n"
        "PARTS = {'versions': report}\n"
    )
    script = f"import runpy; runpy.run_path({str(ROOT / 'benchmarks' / 'device.py')!r}, "
    script += "run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", script, *words],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "name": "x", "trouble": "ValueError: no such"
    }  # fmt: skip


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(Unsupported, match="mlx has no device 'tpu' here"):
        Setting.choose("mlx", "tpu", small=True)


def list_checks(selection):
    """The laws and cases that a selection judges on a GPU, by name."""
    levels = [(level, level.make_cases(level.whole_on_gpu)) for level in selection.list_levels()]
    return [
        (law.id, case.name)
        for level, cases in levels
        for case in filter(selection.has_case, cases)
        for law in level.laws
        if selection.has_law(law) and law.applies_to(case)
    ]


@pytest.mark.parametrize("small", [False, True])
def test_a_certificate_says_what_was_judged_so_far_and_each_check_is_judged_once(small):
    goes, done = list_goes(small=small), []
    for selection, judged in goes:
        done += list_checks(selection)
        assert sorted(done) == sorted(list_checks(judged))
    assert len(done) == len(set(done)) > 3
    if not small:
        assert goes[0][0].levels == ("L6",)
        assert goes[2][1].whole
        assert {"L0", "L2", "L3", "L6"} == set(goes[-1][1].levels) < {one.name for one in LEVELS}


def test_idle_is_what_no_kernel_covers():
    assert find_idle_share([]) is None
    assert find_idle_share([(5, 10)]) == 0
    assert find_idle_share([(20, 30), (0, 10), (2, 5)]) == pytest.approx(1 / 3)
    assert find_idle_share([(0, 6), (4, 10), (1, 9), (10, 20)]) == 0


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(PEERS, "mlx", {"some library": "no_such_library"})
    assert (list_peers("mlx"), list_peers("mlx", installed=False)) == ([], ["some library"])
    kept = []
    measure_training(Setting("mlx", "cpu", small=True), kept.append)
    assert kept[-1]["rows_2"]["failed"] == {"some library": "not installed"}
    assert kept[-1]["rows_2"]["over_best_peer"] is None


def test_both_conventions_of_mfu_are_those_counted_by_hand():
    """6 operations a weight of a product, and 12 a pair of positions, head size and head."""
    setting = Setting("torch", "cpu", small=True)
    spec, T = setting.make_spec(), setting.length
    loop = SimpleNamespace(median=2.0, seconds=[2.0] * 5, first_seconds=9.0, peak=1)
    speed = describe_speed(setting, spec, loop, tokens=2 * T, flops=1e9)
    assert speed["tokens_per_second"] == T
    matrices = count_parameters(spec) - spec.hidden_size * (2 * spec.num_layers + 1)
    pairs = 12 * sum(a.num_heads * a.head_size for a in spec.attentions)
    assert speed["mfu"] == pytest.approx((6 * matrices + pairs * (T + 1) / 2) * T / 1e9)
    assert speed["mfu_whole_attention"] == pytest.approx((6 * matrices + pairs * T) * T / 1e9)


class PlayedMemory:
    """A gauge whose loops hold what they made, and take more in a turn."""

    def __init__(self):
        self.held = self.most = 0

    def read(self):
        return self.held

    def reset(self):
        self.most = self.held

    def read_most(self):
        return self.most

    def make(self, held, more):
        self.held += held

        def step():
            self.most = max(self.most, self.held + more)

        return step


def test_loops_take_turns_and_what_fails_or_finds_no_time_is_told():
    memory, taken, told = PlayedMemory(), [], []

    def make(name, fails_after=99):
        step = memory.make(*{"ours": (100, 40), "theirs": (300, 10)}[name])

        def run():
            taken.append(name)
            if taken.count(name) > fails_after:
                raise RuntimeError("out of memory\nat line 3")
            step()

        return run

    def fail():
        raise ImportError("no module named other")

    makers = {"ours": lambda: make("ours"), "other": fail, "theirs": lambda: make("theirs", 3)}
    loops, failed = take_turns(
        makers, 2, gauge=memory, tell=lambda loops, failed: told.append((len(loops), len(failed)))
    )
    warm = ["ours", "ours", "theirs", "theirs"]
    assert taken == [*warm, "ours", "theirs", "ours", "theirs"]
    assert failed == {"other": "ImportError: no module named other",
                      "theirs": "RuntimeError: out of memory"}  # fmt: skip
    assert {name: loop.peak for name, loop in loops.items()} == {"ours": 140}
    assert told[0] == (1, 0)
    seconds = iter([50, 50, -1, -1, -1])
    loops, failed = take_turns(makers, 2, count_left=lambda: next(seconds))
    assert failed["theirs"] == "left out, as -1 s were left for it to begin"
    assert len(loops["ours"].seconds) == 1


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("rows", [1, 3])
def test_decoding_of_a_device_writes_what_plain_decoding_does(backend, rows):
    spec = make_spec()
    model = find_backend(backend).build(spec, init_weights(spec, 0), Options(device="cpu"))
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, (rows, 4))
    plain = np.stack(list(decode_greedily(model, ids, 5)))
    model.decoder, model.row_decoder = model.make_device_decoder, model.make_device_row_decoder
    ahead = np.stack(list(decode_greedily(model, ids, 5)))
    np.testing.assert_array_equal(plain, ahead)
    assert plain.shape == (5, rows)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_every_part_has_figures_and_the_certificate_verifies(tmp_path, backend):
    told, found = run_check(tmp_path, "--backend", backend, "--scale", "5")
    check = found["device_check"]
    parts = "versions", "denominators", "conformance", "training", "ratios", "decoding"
    assert not [name for name in parts if "trouble" in check[name]], told
    assert check["denominators"]["flops"] > 0
    assert check["denominators"]["bytes_per_second"] > 0
    ours = check["training"]["rows_2"]["hermes"]
    assert ours["tokens_per_second"] > 0
    assert ours["peak_bytes"] > 0
    assert 0 < ours["seconds"] < ours["first_seconds"]
    assert {"packing_over_plain", "checkpointing_over_plain", "dropout_over_plain"} <= set(
        check["ratios"]
    )
    assert set(check["decoding"]) == {"rows_1", "rows_16", "rows_64", "seconds"}
    assert check_certificate(found) == []
    assert [level["level"] for level in found["levels"] if level["passed"]] == ["L2", "L6"]
    assert f"{backend} on cpu is hermes, as far as judged: passed L2, L6" in told
