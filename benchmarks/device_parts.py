"""The parts of device.py. Each is called in a process of its own and keeps its figures as it goes.

A part takes a setting and `keep`, a function that writes the figures so far: what a deadline cuts
off is lost, what was kept is not.
"""

import platform
import time

from device_decoding import measure_decoding
from device_rates import measure_denominators
from device_training import measure_ratios, measure_training

from hermes.interface import find_backend


def report_versions(setting, keep):
    """What is installed, and what the device is."""
    backend = find_backend(setting.backend)
    describe = getattr(backend, "describe_device", None)
    info = describe(setting.device) if describe else None
    keep(
        {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "versions": backend.versions(),
            "name": info.name if info else "",
            "kind": info.kind if info else setting.device,
            "precision": setting.precision,
        }
    )


def list_goes(*, small):
    """What is judged, in order: a selection, and the one that describes it and all before it.

    The short cases of L6 come first, so that something is certified early, and the whole ones,
    whose reference is float64 on the CPU, behind L2.
    """
    from hermes_conformance.suite.selection import Selection

    if small:
        globs = {"laws": ("L2/logits", "L6/*"), "cases": ("default/*", "small.15x64 doc*")}
        return [
            (Selection(("L2",), **globs), Selection(("L2",), **globs)),
            (Selection(("L6",), **globs), Selection(("L2", "L6"), **globs)),
        ]
    short, whole = ("[!w]*", "w[!h]*"), ("whole.*",)  # every name but those of whole cases
    return [
        (Selection(("L6",), cases=short), Selection(("L6",), cases=short)),
        (Selection(("L2",)), Selection(("L2", "L6"), cases=short)),
        (Selection(("L6",), cases=whole), Selection(("L2", "L6"))),
        (Selection(("L3",)), Selection(("L2", "L3", "L6"))),
        (Selection(("L0",)), Selection(("L0", "L2", "L3", "L6"))),
    ]


def judge_conformance(setting, keep):
    """The certificate of what was finished: it is kept after each go."""
    from hermes_conformance.certificate.issue import issue_certificate
    from hermes_conformance.suite.precision import require_float32
    from hermes_conformance.suite.runner import judge
    from hermes_conformance.suite.selection import load_backends

    backends, outcomes = load_backends(setting.backend, "numpy", setting.device), []
    require_float32(backends)
    for selection, judged in list_goes(small=setting.small):
        began = time.perf_counter()
        outcomes += judge(backends, selection)
        certificate = issue_certificate(backends, judged, outcomes)
        keep({"certificate": certificate, "levels": list(judged.levels)})
        told = " ".join((*selection.levels, *selection.cases))
        print(f"  {told} in {time.perf_counter() - began:.0f} s", flush=True)


PARTS = {
    "versions": report_versions,
    "denominators": measure_denominators,
    "conformance": judge_conformance,
    "training": measure_training,
    "ratios": measure_ratios,
    "decoding": measure_decoding,
}
