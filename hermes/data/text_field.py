"""What to do about records that have no field of text."""

from collections.abc import Collection

__all__ = ["OTHER_KINDS", "advise_text_field"]

# What a record is that has such a field.
OTHER_KINDS = {
    "messages": "conversations",
    "conversations": "conversations",
    "completion": "conversations",
    "instruction": "conversations",
    "chosen": "pairs",
}
COMMANDS = {"conversations": "sft", "pairs": "dpo"}


def advise_text_field(names: Collection[str]) -> str:
    """What to do about records with these fields, where none of them is the one of text."""
    kind = next((OTHER_KINDS[name] for name in OTHER_KINDS if name in names), None)
    if kind is None:
        return "name the one that holds text"
    return f"{kind} are for hermes {COMMANDS[kind]}; else name the one that holds text"
