"""The result of a conversion, as the terminal shows it."""

from typing import TYPE_CHECKING

from hermes.checkpoint.layout import GENERATION_CONFIG

if TYPE_CHECKING:
    from hermes.interop.convert import Conversion

__all__ = ["describe_conversion", "format_conversion"]


def describe_conversion(done: "Conversion") -> dict[str, object]:
    """What was read and written, as plain data."""
    from hermes.interop.companions import explain_no_text
    from hermes.interop.huggingface.reader_support import judge_all_readers
    from hermes.numerics.params import count_parameters

    return {
        "source": str(done.source.path),
        "kind": done.source.kind,
        "target": str(done.target),
        "architecture": done.architecture,
        "parameters": count_parameters(done.source.spec),
        "dtype": done.dtype,
        "tokenizer": _list_tokenizer_files(done),
        "generation_config": GENERATION_CONFIG in done.source.files,
        "bytes": done.size,
        "difference": done.verification.difference,
        "backend": done.verification.backend,
        "readers": judge_all_readers(
            done.source.spec,
            converted=done.to == "hf",
            text=explain_no_text(
                done.source.files, done.source.ids, done.source.path, done.source.spec.vocab_size
            ),
        ),
    }


def _list_tokenizer_files(done: "Conversion") -> list[str]:
    return sorted(name for name in done.source.files if name != GENERATION_CONFIG)


def _has_known_class(done: "Conversion") -> bool:
    from hermes.interop.huggingface.families import find_family

    return find_family(done.source.spec, renamed=True) != "hermes"


def format_conversion(done: "Conversion") -> list[str]:
    """Lines with what was read and written, the proof, and the verdict of each reader."""
    facts = describe_conversion(done)
    one_by_one = (
        f", layer by layer ({done.verification.passes})" if done.verification.passes > 1 else ""
    )
    files = ", ".join(_list_tokenizer_files(done)) or "none beside it"
    lines = [
        f"read       {done.source.path}: {done.source.kind}, {facts['parameters']:,} parameters",
        f"written    {done.target}: {done.architecture}, {done.dtype}, {done.size:,} bytes",
        f"tokenizer  {files}",
        f"proof      logits differ by {done.verification.difference:.2g} of their root mean square "
        f"({done.verification.backend}{one_by_one})",
    ]
    if GENERATION_CONFIG in done.source.files:
        lines.insert(3, f"sampling   {GENERATION_CONFIG}")
    found = facts["readers"]
    assert isinstance(found, dict)
    lines += [f"{reader:<18} {verdict}" for reader, verdict in found.items()]
    if done.architecture == "HermesForCausalLM" and _has_known_class(done):
        lines.append("note       --to hf makes it a model that those tools know")
    return lines
