"""Is this device ready for hermes, and how fast is it? At most eight minutes.

    python benchmarks/device.py --json out.json [--backend torch|mlx] [--small]

Versions; the denominators, measured: a bfloat16 product of random numbers and a copy; conformance
with the level L6, as trained; training of smol-llama beside a nanoGPT-like loop and, where they are
installed, transformers, litgpt and mlx-lm, in turns, with the memory of each; what dropout, packing
and checkpointing cost in a model of eight of its layers; decoding of 1, 16 and 64 rows. Each part
is a process of this one's group, with a deadline: one that is late is ended and named, what it has
found by then is kept, and the others run. It prints a verdict, and its JSON is a certificate for
`hermes conformance verify` that also holds the figures, under `device_check`. The JSON is written
after each part, and Ctrl-C ends the check with the verdict of what was found. The exit code is 0
where every part had its figures and nothing that was judged failed.

It needs torch or MLX, not both. --small is the same on small shapes; it is chosen on CPUs.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

from device_parts import PARTS
from device_setting import Setting
from device_turns import describe_error
from device_verdict import has_passed, make_verdict

from hermes.errors import HermesError, StorageError
from hermes.storage.durable import write_atomically

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


class Interruption:
    """What a signal does: the part that runs is ended, and no other begins.

    number: of the signal that came, or None. child: the process of the part that runs.
    """

    def __init__(self):
        self.number = self.child = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self)

    def __call__(self, number, frame):
        """Hear a signal."""
        self.number = number
        if self.child:
            self.child.kill()


def run_part(name, setting, limit, interruption):
    """Run a part in a process of its own: its figures, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, __file__, "--part", name, "--json", str(result)]
        command += ["--backend", setting.backend, "--device", setting.device]
        command += ["--ends", str(time.monotonic() + limit - LEAST_LEFT)]
        command += ["--small"] if setting.small else []
        began, late = time.perf_counter(), None
        child = interruption.child = subprocess.Popen(command, stdout=sys.stderr)
        try:
            child.wait(0 if interruption.number else limit)
        except subprocess.TimeoutExpired:
            late = f"ended after its {limit:.0f} s"
        finally:
            child.kill()
            child.wait()
            interruption.child = None
        figures = json.loads(result.read_text()) if result.exists() else {}
        if interruption.number:
            figures["trouble"] = "interrupted"
        elif late or child.returncode:
            ended = f"failed with exit code {child.returncode}"
            if child.returncode == StorageError.exit_code:
                where = Path(folder).parent
                ended = f"{where} could not be written (TMPDIR chooses another folder)"
            figures["trouble"] = late or figures.get("trouble", ended)
        figures["seconds"] = round(time.perf_counter() - began, 1)
        return figures


def serve_part(name, setting, path):
    """Run a part in this process, and keep what it finds; of an error that ends it, the reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's; the process above ends this one
    found = {}

    def keep(figures):
        found.update(figures)
        write_json(path, figures)

    try:
        PARTS[name](setting, keep)
    except Exception as error:
        traceback.print_exc()
        try:
            write_json(path, {**found, "trouble": describe_error(error)})
        except StorageError as full:
            print(f"Error: {full}", file=sys.stderr)
            sys.exit(full.exit_code)
        sys.exit(1)


def write_json(path, content):
    """Write whole or not at all: a part may be ended at any time. Raises StorageError."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def run_parts(setting, names, scale, interruption):
    """Run each part within its own limit and what those before it left: yield all found so far."""
    began, found = time.perf_counter(), {}
    for at, name in enumerate(names):
        left = scale * sum(LIMITS[one] for one in names) - (time.perf_counter() - began)
        limit = left - scale * sum(LIMITS[later] for later in names[at + 1 :])
        print(f"{name}, at most {max(limit, 0):.0f} s", file=sys.stderr)
        none = {"trouble": "no time was left", "seconds": 0.0}
        found[name] = run_part(name, setting, limit, interruption) if limit > 0 else none
        yield found
        if interruption.number:
            return


def seal_result(found, verdict, setting):
    """The certificate of the part on conformance with all other figures in it, sealed again.

    Without a certificate it is no certificate, and `hermes conformance verify` says so.
    """
    from hermes_conformance.certificate.issue import seal

    parts = {name: dict(figures) for name, figures in found.items()}
    certificate = parts.get("conformance", {}).pop("certificate", {})
    check = {"backend": setting.backend, "device": setting.device, "small": setting.small,
             "verdict": verdict, **parts}  # fmt: skip
    return seal({**certificate, "device_check": check})


def parse_arguments():
    """What is asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="The file for all that is found.")
    parser.add_argument("--backend", choices=("torch", "mlx"), help="This machine's if left out.")
    parser.add_argument("--device", help="One of the backend's; its own choice where left out.")
    parser.add_argument("--small", action="store_true", help="Small shapes; chosen on CPUs.")
    parser.add_argument("--only", action="append", choices=PARTS, help="These parts alone.")
    parser.add_argument("--scale", type=float, default=1.0, help="Multiplies every deadline.")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--ends", type=float, default=math.inf, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    """Run the parts, or one of them, and print the verdict."""
    asked = parse_arguments()
    # Read once, when MLX is loaded: conformance judges float32, not tf32.
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    try:
        tempfile.gettempdir()
    except OSError as error:
        sys.exit(f"Error: {error.strerror}; choose a folder that can be written with TMPDIR")
    try:
        setting = Setting.choose(asked.backend, asked.device, small=asked.small)
    except HermesError as error:
        sys.exit(f"Error: {error}")
    if asked.part:
        serve_part(asked.part, replace(setting, ends=asked.ends), asked.json)
        return
    interruption, verdict, unsaved, found = Interruption(), [], None, {}
    for found in run_parts(setting, asked.only or list(PARTS), asked.scale, interruption):
        verdict = make_verdict(found, setting)
        try:
            write_json(asked.json, seal_result(found, verdict, setting))
        except StorageError as error:
            if len(found) == 1:  # what cannot be written is known before the eight minutes
                sys.exit(f"Error: {error}")
            unsaved = error
        else:
            unsaved = None
    print("\n".join(verdict))
    if unsaved:
        sys.exit(f"Error: {unsaved}")
    if interruption.number:
        sys.exit(128 + interruption.number)
    sys.exit(not has_passed(found))


if __name__ == "__main__":
    main()
