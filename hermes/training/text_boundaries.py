"""What begins and ends a text of a run: chosen for a new one, and the same when it is resumed."""

from collections.abc import Mapping
from pathlib import Path

from hermes.errors import HermesError
from hermes.tokenizer import Tokenizer
from hermes.tokenizer.roles import EOS
from hermes.training.run_yaml import NAME, read_setting

__all__ = ["describe_boundaries", "describe_tokenizer", "restore_boundaries"]


def restore_boundaries(
    tokenizer: Tokenizer, output: Path, asked: Mapping[str, object]
) -> Tokenizer:
    """The tokenizer with the run's own end of text and BOS, by its run.yaml.

    asked: options, of which 'eos' and 'bos' may repeat the run's. A run.yaml without them is of a
    version that put no BOS and found the end of text by a list of names. Raises HermesError where
    others were asked for.
    """
    eos, bos = read_setting(output, "eos"), read_setting(output, "bos")
    for name, there in (("eos", eos), ("bos", bos)):
        here = asked.get(name)
        if here is not None and there is not None and here != there:
            raise HermesError(
                f"{name} is {there!r} in {output / NAME} and {here!r} here; leave it out to resume "
                "the run, or choose another --output for a new one"
            )
    if bos is None:
        bos = bool(asked.get("bos"))
    if eos is None:
        number = tokenizer.find_special_id(*EOS)
        eos = None if number is None else tokenizer.get_name(number)
    return tokenizer.replace_roles(eos=eos, bos=bos)


def describe_boundaries(tokenizer: Tokenizer) -> dict[str, object]:
    """Describe what begins and ends a text, as run.yaml has it."""
    eos = None if tokenizer.eos_id is None else tokenizer.get_name(tokenizer.eos_id)
    return {"eos": eos, "bos": tokenizer.adds_bos}


def describe_tokenizer(tokenizer: Tokenizer) -> list[str]:
    """What to tell the user of a tokenizer, a sentence each."""
    said = [*tokenizer.losses, *tokenizer.roles.notes]
    if tokenizer.adds_bos and tokenizer.bos_id is not None:
        name = tokenizer.get_name(tokenizer.bos_id)
        said.append(f"every text begins with {name!r} (--no-bos leaves it out)")
    return said
