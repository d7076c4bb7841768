"""Which tokens begin and end a text and pad a row, by what the files of a model say.

The files' own word counts, in this order: generation_config.json, tokenizer_config.json,
special_tokens_map.json, config.json; where none says it, a list of usual names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BOS", "EOS", "FILES", "PAD", "Roles", "read_roles"]

GENERATION, SETTINGS, SPECIAL, CONFIG = FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
)
# The names of special tokens, hermes's own first, then those of other tokenizers; the first found
# counts.
BOS = ("<|bos|>", "<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<|endoftext|>")
EOS = ("<|eos|>", "</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>")
PAD = ("<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
NAMES = {"bos": BOS, "eos": EOS, "pad": PAD}

Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Roles:
    """Tokens by role. adds_bos: whether a text begins with BOS.

    stops: tokens at which a completion ends, eos among them. notes: contradictions, a sentence
    each.
    """

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    adds_bos: bool = False
    stops: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def read_roles(
    settings: Settings,
    find: Callable[[str], int | None],
    get_name: Callable[[int], str | None],
    beginning: int | None,
) -> Roles:
    """Read the roles of tokens.

    settings: contents of FILES, by name. find: the id of a token by its name. get_name: the name of
    an id, None for an unknown one. beginning: the token that tokenizer.json puts before a text.
    """
    notes: list[str] = []
    said = {role: _collect(role, settings, find, get_name) for role in NAMES}
    eos = _choose_eos(said["eos"])
    bos = _choose(said["bos"])
    adds, asked = beginning is not None, _find_key(settings)
    if asked is not None:
        if asked != adds and SETTINGS in settings and (beginning is not None):
            notes.append(
                f"{SETTINGS} says add_bos_token {str(asked).lower()}, tokenizer.json begins a "
                f"text with {get_name(beginning)!r}; the former counts (--bos changes it)"
            )
        adds = asked
    elif beginning is not None:
        bos = beginning
    bos = _find_first(BOS, find) if bos is None else bos
    eos = _find_first(EOS, find) if eos is None else eos
    notes += _name_contradiction("eos", eos, said["eos"], get_name)
    notes += _name_contradiction("bos", bos, said["bos"], get_name)
    stops = {number for file, ids in said["eos"] if file == GENERATION for number in ids}
    stops |= {number for name in END_OF_TURN if (number := find(name)) is not None}
    stops |= set() if eos is None else {eos}
    # A padding token that also ends texts would never be learned, as padding is not trained on.
    pads = [number for _, ids in said["pad"] for number in ids if number not in stops]
    pad = pads[0] if pads else _find_first([name for name in PAD if find(name) not in stops], find)
    return Roles(bos, eos, pad, adds and bos is not None, frozenset(stops), tuple(notes))


Said = list[tuple[str, tuple[int, ...]]]


def _collect(
    role: str,
    settings: Settings,
    find: Callable[[str], int | None],
    get_name: Callable[[int], str | None],
) -> Said:
    """Collect what each file says of a role, as ids of the vocabulary."""
    said: Said = []
    for file in FILES:
        held = settings.get(file) or {}
        if file in (GENERATION, CONFIG):
            inner = held.get("text_config")
            value = held.get(f"{role}_token_id")
            if value is None and isinstance(inner, Mapping):
                value = inner.get(f"{role}_token_id")
            ids = value if isinstance(value, list) else [value]
        else:
            value = held.get(f"{role}_token")
            name = value.get("content") if isinstance(value, Mapping) else value
            ids = [find(name)] if isinstance(name, str) else []
        known = tuple(n for n in ids if type(n) is int and get_name(n) is not None)
        if known:
            said.append((file, known))
    return said


def _choose(said: Said) -> int | None:
    return said[0][1][0] if said else None


def _choose_eos(said: Said) -> int | None:
    """Choose the end of text: of several in the first file the one that a later file names too."""
    if not said:
        return None
    first = said[0][1]
    later = (number for _, ids in said[1:] for number in ids if number in first)
    return next(later, first[0])


def _name_contradiction(
    role: str, chosen: int | None, said: Said, get_name: Callable[[int], str | None]
) -> list[str]:
    """Name the first file that says another token than the one that counts."""
    allowed = {chosen} | set(said[0][1] if said else ())
    for file, ids in said[1:]:
        if not allowed & set(ids):
            ending = " (--eos changes it)" if role == "eos" else ""
            return [
                f"{said[0][0]} says that {get_name(said[0][1][0])!r} is {role}, {file} says "
                f"{get_name(ids[0])!r}; the former counts{ending}"
            ]
    return []


def _find_key(settings: Settings) -> bool | None:
    found = (settings.get(SETTINGS) or {}).get("add_bos_token")
    return found if isinstance(found, bool) else None


def _find_first(
    names: "list[str] | tuple[str, ...]", find: Callable[[str], int | None]
) -> int | None:
    return next((n for name in names if (n := find(name)) is not None), None)
