"""What a check of data found, as lines for a terminal."""

from typing import TYPE_CHECKING

import click

from hermes.formatting import format_count, list_first
from hermes.stage_display import measure_terminal

if TYPE_CHECKING:
    from hermes.data.checking import Findings, Sample
    from hermes.data.checking.bill import Bill

__all__ = ["describe_findings"]

BAR = 40  # characters of the longest bar
BEFORE_BAR = 37  # and of what stands before it
LEAST_SHARE = 0.0005  # of a writing system that is named by itself
RECORDS = {"text": "documents", "conversations": "conversations", "pairs": "pairs"}


def describe_findings(found: "Findings", seq_len: int) -> list[str]:
    """Lines with what was found: lengths as bars, samples, and the faults last."""
    text = f"{format_count(found.documents, RECORDS[found.kind])}, {found.text_bytes:,} bytes"
    lines = [f"read       {format_count(found.files, 'files')}, {text} of text"]
    lines += [f"note       {note}" for note in found.notes]
    unit = "characters"
    if found.tokens is not None:
        unit = "tokens"
        lines += _describe_tokens(found, seq_len)
    lines += _describe_scripts(found)
    lines.append(f"lengths    in {unit}, the longest {found.longest:,}")
    most = max(found.lengths.values(), default=1)
    widest = max(1, min(BAR, measure_terminal() - BEFORE_BAR - 1))
    for below, count in found.lengths.items():
        bar = "#" * max(1, widest * count // most)
        lines.append(f"  {below // 2:>9,} to {below - 1:>9,}  {count:>9,}  {bar}")
    if found.unread:
        each = list_first([f"{name[:40]!r} {count:,}" for name, count in found.unread.items()])
        lines.append(f"not read   {each}")
    for name, places in (("repeated", found.repeated), ("almost", found.near)):
        if places is not None and places.count:
            many = format_count(places.count, RECORDS[found.kind])
            lines.append(f"{name:<11}{many}; the first: {places.first[0]}")
    if found.near is not None and not found.near.count:
        lines.append("almost     none is almost another")
    if found.bill is not None:
        lines.append(f"run        {_describe_bill(found.bill)}")
    for sample in found.samples:
        lines.append(f"sample     {sample.where}, {format_count(sample.tokens, 'tokens')}")
        lines.append(_style_sample(sample))
    for fault, places_of_more in found.list_faults():
        lines.append(f"fault      {fault}")
        lines += [f"           {place}" for place in places_of_more]
    return lines


def _describe_tokens(found: "Findings", seq_len: int) -> list[str]:
    """Lines about tokens: their number, how many count, how many would not fit a row, and ends."""
    tokens, longer, examples = found.tokens or 0, found.longer or 0, found.examples
    words = f"{tokens:,} an epoch"
    if found.bytes_per_token is not None:
        words += f", {found.bytes_per_token:.2f} bytes each"
    elif found.trained is not None:
        part = found.trained / max(tokens, 1)
        words += f", of which {found.trained:,} ({part:.0%}) are trained on"
    lines = [f"tokens     {words}"]
    share, cut = longer / max(examples, 1), (found.cut_tokens or 0) / max(tokens, 1)
    name = RECORDS["text"] if found.kind == "text" else "examples"
    many = format_count(longer, name)
    lines.append(
        f"seq-len    {many} ({share:.1%}) longer than {seq_len:,}, by {cut:.1%} of all tokens"
    )
    lines.append(
        f"ends       {found.ended or 0:,} of {examples:,} {name} have an end of text or turn "
        "among their targets"
    )
    return lines


def _describe_scripts(found: "Findings") -> list[str]:
    """The line with the share of each writing system."""
    if not found.text_bytes:
        return []
    total = sum(found.scripts.values())
    named = {n: count for n, count in found.scripts.items() if count >= LEAST_SHARE * total}
    shares = [f"{name} {count / total:.1%}" for name, count in named.items()]
    if rest := len(found.scripts) - len(named):
        shares.append(f"{rest} more")
    return [f"scripts    {', '.join(shares)} of the bytes"]


def _describe_bill(bill: "Bill") -> str:
    words = f"{format_count(bill.steps, 'steps')}, {bill.tokens:,} tokens"
    if bill.hours is not None:
        words += f", {_format_hours(bill.hours)}"
    if bill.price is not None:
        words += f", for {bill.price:,.2f}"
    return words


def _format_hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"


def _style_sample(sample: "Sample") -> str:
    """The text, what is trained on in green; in brackets, too, where something is not."""
    whole = all(trained for _, trained in sample.parts)

    def mark(words: str, trained: bool) -> str:
        if not trained:
            return words
        return click.style(words if whole else f"[{words}]", fg="green", bold=True)

    text = "".join(mark(words, trained) for words, trained in sample.parts)
    return "\n".join(f"  {line}" for line in text.split("\n"))
