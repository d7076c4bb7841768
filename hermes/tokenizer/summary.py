"""A tokenizer in words, for those who look at a model."""

from hermes.tokenizer.tokenizer import Tokenizer

__all__ = ["describe_facts"]


def describe_facts(tokenizer: Tokenizer) -> dict[str, str]:
    """Describe a tokenizer: its kind, what begins and ends a text, and what is lost."""
    facts = {"kind": tokenizer.kind, "tokens": f"{tokenizer.vocab_size:,}"}
    if tokenizer.bos_id is not None:
        name = tokenizer.get_name(tokenizer.bos_id)
        facts["begin of text"] = (
            name if tokenizer.adds_bos else f"{name}, which no text begins with"
        )
    if tokenizer.eos_id is not None:
        facts["end of text"] = tokenizer.get_name(tokenizer.eos_id)
    stops = sorted(tokenizer.stop_ids - {tokenizer.eos_id})
    if stops:
        facts["also stops at"] = ", ".join(map(tokenizer.get_name, stops))
    for number, note in enumerate((*tokenizer.losses, *tokenizer.roles.notes), 1):
        facts[f"note {number}" if number > 1 else "note"] = note
    return facts
