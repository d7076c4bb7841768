"""Is this device ready for hermes, and how fast is it? At most eight minutes.

    python benchmarks/device.py --json out.json [--backend torch|mlx] [--small]

Versions; the denominators, measured: a bfloat16 product of random numbers and a copy; conformance
with the level L6, as trained; training of smol-llama beside a nanoGPT-like loop and, where they are
installed, transformers, litgpt and mlx-lm, in turns, with the memory of each; what dropout, packing
and checkpointing cost in a model of eight of its layers; decoding of 1, 16 and 64 rows. Each part
is a process of this one's group, with a deadline: one that is late is ended and named, what it has
found by then is kept, and the others run. It prints a verdict, and its JSON is a certificate for
`hermes conformance verify` that also holds the figures, under `device_check`.

It needs torch or MLX, not both. --small is the same on small shapes; it is chosen on CPUs.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from device_parts import PARTS
from device_setting import Setting
from device_verdict import make_verdict

# Seconds that every part has, 480 in all; what one leaves over, the next may have, too.
LIMITS = {
    "versions": 20.0,
    "denominators": 20.0,
    "conformance": 170.0,
    "training": 150.0,
    "ratios": 75.0,
    "decoding": 45.0,
}
LEAST_LEFT = 2.0  # seconds that a part should be done before it is ended


def run_part(name, setting, limit):
    """Run a part in a process of its own: its figures, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, __file__, "--part", name, "--json", str(result)]
        command += ["--backend", setting.backend, "--device", setting.device]
        command += ["--ends", str(time.monotonic() + limit - LEAST_LEFT)]
        command += ["--small"] if setting.small else []
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=sys.stderr)
        late = None
        try:
            child.wait(limit)
        except subprocess.TimeoutExpired:
            late = f"ended after its {limit:.0f} s"
        finally:
            child.kill()
            child.wait()
        figures = json.loads(result.read_text()) if result.exists() else {}
        if late or child.returncode:
            figures["trouble"] = late or f"failed with exit code {child.returncode}"
        figures["seconds"] = round(time.perf_counter() - began, 1)
        return figures


def write_json(path, content):
    """Write whole or not at all: a part may be ended at any time."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def run_parts(setting, names, scale):
    """Run each part within its own limit and what those before it left."""
    began, found = time.perf_counter(), {}
    for at, name in enumerate(names):
        left = scale * sum(LIMITS[one] for one in names) - (time.perf_counter() - began)
        limit = left - scale * sum(LIMITS[later] for later in names[at + 1 :])
        print(f"{name}, at most {max(limit, 0):.0f} s", file=sys.stderr)
        none = {"trouble": "no time was left", "seconds": 0.0}
        found[name] = run_part(name, setting, limit) if limit > 0 else none
    return found


def seal_result(found, verdict, setting):
    """The certificate of the part on conformance with all other figures in it, sealed again.

    Without a certificate it is no certificate, and `hermes conformance verify` says so.
    """
    from hermes_conformance.certificate.issue import seal

    certificate = found.get("conformance", {}).pop("certificate", {})
    check = {"backend": setting.backend, "device": setting.device, "small": setting.small,
             "verdict": verdict, **found}  # fmt: skip
    return seal({**certificate, "device_check": check})


def main():
    """Run the parts, or one of them, and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--backend", choices=("torch", "mlx"))
    parser.add_argument("--device", help="One of the backend's; its own choice where left out.")
    parser.add_argument("--small", action="store_true", help="Small shapes; chosen on CPUs.")
    parser.add_argument("--only", action="append", choices=PARTS, help="These parts alone.")
    parser.add_argument("--scale", type=float, default=1.0, help="Multiplies every deadline.")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--ends", type=float, default=math.inf, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    # Read once, when MLX is loaded: conformance judges float32, not tf32.
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    setting = Setting.choose(asked.backend, asked.device, small=asked.small)
    if asked.part:
        setting = replace(setting, ends=asked.ends)
        PARTS[asked.part](setting, lambda figures: write_json(asked.json, figures))
        return
    found = run_parts(setting, asked.only or list(PARTS), asked.scale)
    verdict = make_verdict(found, setting)
    write_json(asked.json, seal_result(found, verdict, setting))
    print("\n".join(verdict))


if __name__ == "__main__":
    main()
