"""The packages of the house and their files, for the tests that hold its laws."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "hermes": ROOT / "hermes",
    "hermes_numpy": ROOT / "backends" / "hermes_numpy",
    "hermes_torch": ROOT / "backends" / "hermes_torch",
    "hermes_mlx": ROOT / "backends" / "hermes_mlx",
    "hermes_specs": ROOT / "specs" / "hermes_specs",
    "hermes_conformance": ROOT / "conformance" / "hermes_conformance",
    "hermes_cli": ROOT / "cli" / "hermes_cli",
}
