"""benchmarks/device.py on a CPU: its parts, its deadlines, and a certificate that verifies."""

import json
import subprocess
import sys

import pytest

from hermes_conformance.certificate.verify import check_certificate
from tests.packages import ROOT


def run_check(folder, *words):
    """Run the check; what it prints, and its JSON."""
    path = folder / "out.json"
    command = [sys.executable, ROOT / "benchmarks" / "device.py", "--json", path, "--small"]
    ran = subprocess.run([*command, *words], check=True, capture_output=True, text=True)
    return ran.stdout, json.loads(path.read_text())


def test_a_part_that_is_late_is_ended_and_named(tmp_path):
    told, found = run_check(tmp_path, "--only", "training", "--scale", "0.001")
    assert "training: ended after its 0 s, so what is missing above was not measured" in told
    assert found["device_check"]["training"]["trouble"] == "ended after its 0 s"
    assert check_certificate(found) == ["the format is None, this version reads "
                                        "'hermes-conformance/1'"]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_every_part_has_figures_and_the_certificate_verifies(tmp_path, backend):
    told, found = run_check(tmp_path, "--backend", backend, "--scale", "5")
    check = found["device_check"]
    parts = "versions", "denominators", "conformance", "training", "ratios", "decoding"
    assert not [name for name in parts if "trouble" in check[name]], told
    assert check["denominators"]["flops"] > 0
    assert check["denominators"]["bytes_per_second"] > 0
    assert check["training"]["rows_2"]["hermes"]["tokens_per_second"] > 0
    assert {"packing_over_plain", "checkpointing_over_plain", "dropout_over_plain"} <= set(
        check["ratios"]
    )
    assert set(check["decoding"]) == {"rows_1", "rows_16", "rows_64", "seconds"}
    assert check_certificate(found) == []
    assert [level["level"] for level in found["levels"] if level["passed"]] == ["L2", "L6"]
    assert f"{backend} on cpu is hermes, as far as judged: passed L2, L6" in told
