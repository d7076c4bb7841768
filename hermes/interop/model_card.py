"""The README.md of a model on the Hub: what it is, how to load it, and its architecture."""

from hermes import mal
from hermes.formatting import format_count
from hermes.interop.convert import Conversion
from hermes.interop.huggingface.reader_support import NOT_EXPRESSIBLE, judge_readers
from hermes.numerics.params import count_parameters

__all__ = ["render_card"]


def render_card(conversion: Conversion, repo: str) -> str:
    """Render the model card with the YAML header that the Hub reads."""
    spec = conversion.source.spec
    verdicts = judge_readers(spec, converted=conversion.to == "hf")
    can_load = any(not verdict.startswith(NOT_EXPRESSIBLE) for _, verdict in verdicts)
    header = ["---", "pipeline_tag: text-generation", "tags:", "- hermes"]
    header += ["library_name: transformers"] if can_load else []
    parts = [
        "\n".join([*header, "---"]),
        f"# {repo.rpartition('/')[2]}",
        f"A language model of {count_parameters(spec):,} parameters, "
        f"{format_count(spec.num_layers, 'layers')} and "
        f"a context of {spec.max_seq_len:,} tokens, made with hermes. Weights are "
        f"{conversion.dtype}, under the names of `{conversion.architecture}`.",
        " ".join(spec.description.split()),
        "## Use",
        _format_code("bash", f'hermes generate --checkpoint hf://{repo} --prompt "..."'),
        _format_code("python", f'import hermes\n\nmodel = hermes.load("hf://{repo}")'),
    ]
    if can_load:
        name = "AutoModelForCausalLM"
        lines = f'from transformers import {name}\n\nmodel = {name}.from_pretrained("{repo}")'
        parts.append(_format_code("python", lines))
    rows = "\n".join(f"| {reader} | {verdict} |" for reader, verdict in verdicts)
    parts += [
        "Whether other tools compute the same:",
        f"| reader | logits |\n|---|---|\n{rows}",
        "## Architecture",
        _format_code("", mal.dumps(spec).strip()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _format_code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"
