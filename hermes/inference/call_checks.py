"""What a call that generates is refused for before its model is loaded.

It is looked at again with the model, which may have settings of its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes.errors import HermesError
from hermes.inference.prompts_file import read_prompt_records
from hermes.inference.sampling_options import SAMPLING_OPTIONS, make_sampling

__all__ = ["check_generation", "check_sampling"]

# Settings that only a tokenizer turns into ids.
OF_TOKENIZER = ("ban", "dry_multiplier", "dry_breaker")


def check_sampling(arguments: Mapping[str, Any]) -> None:
    """Refuse wrong settings of sampling, by the arguments of `generate`. Raises HermesError."""
    names = (name for name in SAMPLING_OPTIONS if name not in OF_TOKENIZER)
    make_sampling(None, {}, {name: arguments[name] for name in names})


def check_generation(arguments: Mapping[str, Any]) -> None:
    """Refuse wrong settings, and a file of prompts that is not there. Raises HermesError."""
    check_sampling(arguments)
    least = 0 if arguments["echo"] else 1  # with echo a given text is scored
    if arguments["max_tokens"] < least:
        raise HermesError(f"max_tokens must be at least {least}, got {arguments['max_tokens']}")
    prompts = arguments["prompts"]
    if prompts is not None and not Path(prompts).exists():
        read_prompt_records(Path(prompts))
