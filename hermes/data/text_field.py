"""What to do about records that have other fields than they should."""

from collections.abc import Collection

__all__ = ["OTHER_KINDS", "advise_command", "advise_text_field"]

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


def advise_text_field(names: Collection[str]) -> str:
    """What to do about records with these fields, where none of them is the one of text."""
    other, named = advise_command(names, "text"), "name the one that holds text"
    return f"{other}; else {named}" if other else named
