"""Bounds how long a tokenizer can make a text, before any text is given to it.

Stages that replace a character by several multiply: three of ten thousand, one after another, ask
for terabytes for every such character of the data. A template may have a text many times.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from hermes.errors import DataError
from hermes.tokenizer.spelling import iterate_stages

__all__ = ["check_growth", "measure_growth"]

LARGEST_GROWTH = 1000  # characters for one; the largest of Unicode's own forms makes 18
UNICODE_FORMS = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "ByteLevel": 4}
CHARACTERS = re.compile(r"\[([^\[\]^\\\-&]+)\]")  # a regular expression that lists them


def check_growth(config: Mapping[str, Any], source: str) -> None:
    """Check that no stage lengthens a text without bound, or repeats it. Raises DataError."""
    for stage in iterate_stages(config.get("post_processor")):
        parts = stage.get("single") if stage.get("type") == "TemplateProcessing" else None
        if not isinstance(parts, list):
            continue
        times = sum(isinstance(part, dict) and "Sequence" in part for part in parts)
        if times != 1:
            raise DataError(
                f"{source}: its post_processor has the text {times:,} times; hermes reads "
                "templates that have it once"
            )
    for name in ("normalizer", "pre_tokenizer"):  # of these only ByteLevel lengthens
        stages = list(iterate_stages(config.get(name)))
        if len(stages) > LARGEST_GROWTH:
            raise DataError(f"{source}: its {name} has {len(stages):,} stages; write fewer")
        growth = measure_growth(stages)
        if growth > LARGEST_GROWTH:
            raise DataError(
                f"{source}: its {name} could make one character {growth:.4g} long; hermes reads "
                f"tokenizers that make at most {LARGEST_GROWTH:,} of one"
            )


def measure_growth(stages: list[dict[str, Any]]) -> float:
    """Measure into how many characters stages turn a text of one, at most.

    It is a bound, and may be above what they do. Stages that the library refuses count as nothing.
    """
    # Read from the last stage to the first: what a character becomes by those that follow.
    common, single, before = 1.0, dict[str, float](), 0.0

    def measure(text: Any) -> float:
        return sum(single.get(c, common) for c in text) if isinstance(text, str) else 0.0

    for stage in reversed(stages):
        kind = str(stage.get("type"))
        if kind == "Prepend":
            before += measure(stage.get("prepend"))
        elif kind == "Replace":
            grown = measure(stage.get("content"))
            found = _list_replaced(stage.get("pattern"))
            if found is None:  # any character, and the place before it
                common, single = common + grown, {c: n + grown for c, n in single.items()}
            else:
                single |= {c: max(single.get(c, common), grown) for c in found}
        elif factor := _measure_table(stage) if kind == "Precompiled" else UNICODE_FORMS.get(kind):
            common, single = factor * max([common, *single.values()]), {}
    return before + max([common, *single.values()])


def _list_replaced(pattern: Any) -> str | None:
    """The characters of which a match of the pattern has at least one; None where any may match."""
    if not isinstance(pattern, dict):
        return ""
    if isinstance(text := pattern.get("String"), str) and text:
        return text
    listed = CHARACTERS.fullmatch(str(pattern.get("Regex", "")))
    return listed[1] if listed else None


def _measure_table(stage: Mapping[str, Any]) -> int:
    """The longest text that SentencePiece's compiled table has for a character, in bytes."""
    try:
        table = base64.b64decode(stage.get("precompiled_charsmap") or "")
    except (TypeError, ValueError, binascii.Error):
        return 1
    tree = int.from_bytes(table[:4], "little")
    return max(1, max(map(len, table[4 + tree :].split(b"\0"))))
