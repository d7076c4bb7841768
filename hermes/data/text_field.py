"""What to do about records that have other fields than they should."""

from collections.abc import Collection

from hermes.formatting import describe_missing

__all__ = ["OTHER_KINDS", "advise_command", "describe_missing_text"]

# What a record is that has such a field; the first that it has counts.
OTHER_KINDS = {
    "chosen": "pairs",
    "messages": "conversations",
    "conversations": "conversations",
    "completion": "conversations",
    "instruction": "conversations",
}
COMMANDS = {"conversations": "sft", "pairs": "dpo"}


def advise_command(names: Collection[str], wanted: str) -> str:
    """Which command takes records with these fields; "" if they are the kind that is wanted."""
    kind = next((OTHER_KINDS[name] for name in OTHER_KINDS if name in names), wanted)
    return "" if kind == wanted else f"{kind} are for hermes {COMMANDS[kind]}"


# What may divide the cells of a table that is called .csv, by what it is called then.
DIVIDERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def describe_missing_text(field: str, names: Collection[str], *, is_table: bool = False) -> str:
    """Describe records with these fields, of which none is the one of text, and what to do.

    is_table: they are named by a line of cells.
    """
    only = next(iter(names)) if is_table and len(names) == 1 else ""
    divider = next((one for one in DIVIDERS if one in only), "")
    if divider:
        return (
            f"no text field {field!r}; the one cell {only[:40]!r} seems to be several with "
            f"{DIVIDERS[divider]} between; .csv has commas, .tsv tabs"
        )
    other = advise_command(names, "text")
    named = "name the one that holds text by --text-field"
    advice = f"{other}; else {named}" if other else named
    return describe_missing(field, names, advice, chosen=True)
