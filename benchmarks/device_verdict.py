"""What device.py found, in plain words."""

from hermes.formatting import format_count


def make_verdict(found, setting):
    """A line for each part: what was found, or why nothing was."""
    told = {"versions": _tell_versions, "denominators": _tell_denominators,
            "conformance": _tell_conformance, "training": _tell_training,
            "ratios": _tell_ratios, "decoding": _tell_decoding}  # fmt: skip
    lines = []
    for name, figures in found.items():
        lines += told[name](figures, setting)
        if "trouble" in figures:
            lines.append(f"{name}: {figures['trouble']}, so what is missing above was not measured")
    return lines


def has_passed(found):
    """Whether every part had its figures, and nothing that was judged failed."""
    certificate = found.get("conformance", {}).get("certificate", {})
    return certificate.get("passed", True) and not any("trouble" in one for one in found.values())


def _tell_versions(figures, setting):
    if "versions" not in figures:
        return []
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    name = figures["name"] or figures["kind"]
    shapes = "small shapes" if setting.small else "whole shapes"
    return [f"{setting.device} ({name}), {versions}, in {figures['precision']}, {shapes}"]


def _tell_denominators(figures, setting):
    lines = []
    if "flops" in figures:
        lines.append(f"bfloat16 products of random numbers: {figures['flops'] / 1e12:.3g} TFLOP/s")
    if "bytes_per_second" in figures:
        lines.append(f"copies: {figures['bytes_per_second'] / 1e9:.3g} GB/s read and written")
    return lines


def _tell_conformance(figures, setting):
    certificate = figures.get("certificate")
    if not certificate:
        return ["conformance: nothing was certified"]
    passed = [level["level"] for level in certificate["levels"] if level["passed"]]
    failed = [level["level"] for level in certificate["levels"] if not level["passed"]]
    verdict = "is" if certificate["passed"] else "is NOT"
    lines = [f"{setting.backend} on {setting.device} {verdict} hermes, as far as judged: "
             f"passed {', '.join(passed) or 'nothing'}"
             + (f", did not pass {', '.join(failed)}" if failed else "")]  # fmt: skip
    lines += [f"  failed: {one['law']} on {one['case']}" for one in certificate["failures"][:5]]
    notes = {note for level in certificate["levels"] for law in level["laws"]
             for note in law.get("notes", {})}  # fmt: skip
    return lines + [f"  {note}" for note in sorted(notes)]


def _tell_training(figures, setting):
    lines = []
    for name, one in figures.items():
        if not name.startswith("rows_"):
            continue
        where = f"training {name.removeprefix('rows_')} x {setting.length}"
        for peer in ("hermes", *(key for key in one if key != "hermes")):
            if isinstance(one.get(peer), dict) and "tokens_per_second" in one[peer]:
                lines.append(f"{where}, {peer}: {_describe_speed(one[peer])}")
        if one.get("over_best_peer"):
            lines.append(f"{where}: hermes is {one['over_best_peer']:.2f} times the best peer")
        if one.get("idle") is not None:
            lines.append(f"{where}: the device is idle for {one['idle']:.0%} of queued updates")
        lines += [f"{where}, {peer}: {why}" for peer, why in one.get("failed", {}).items()]
    return lines


def _describe_speed(speed):
    """`170,000 tokens/s, at most 12.3 GB, first update in 31 s, 55% of the measured rate ...`."""
    words = [f"{speed['tokens_per_second']:,.0f} tokens/s"]
    if speed["peak_bytes"] is not None:
        words.append(f"at most {speed['peak_bytes'] / 1e9:.3g} GB")
    words.append(f"first update in {speed['first_seconds']:.3g} s")
    if "mfu" in speed:
        words.append(f"{speed['mfu']:.0%} of the measured rate with causal attention counted once")
        words.append(f"{speed['mfu_whole_attention']:.0%} with all of it")
    return ", ".join(words)


def _tell_ratios(figures, setting):
    layers = f" of {figures['layers']} layers" if "layers" in figures else ""
    lines = [
        f"{name.removesuffix('_over_plain').replace('_', ' ')}: {value:.2f} times the seconds of a "
        f"plain update{layers}"
        for name, value in figures.items()
        if name.endswith("_over_plain")
    ]
    return lines + [f"{name}: {why}" for name, why in figures.items()
                    if isinstance(why, str) and name != "trouble"]  # fmt: skip


def _tell_decoding(figures, setting):
    return [
        f"decoding {format_count(int(name.removeprefix('rows_')), 'rows')}: "
        f"{one['tokens_per_second']:,.0f} tokens/s, "
        f"{one['milliseconds_per_step']:.2f} ms a step"
        for name, one in figures.items()
        if name.startswith("rows_")
    ]
