"""What a check found, what of it would spoil a run, and how data is to be checked."""

from dataclasses import dataclass, field
from pathlib import Path

from hermes.data.bad_records import LISTED
from hermes.data.checking.bill import Bill, RunPlan
from hermes.data.document_reader import TextFormat
from hermes.errors import DataError
from hermes.formatting import format_count

__all__ = ["KINDS", "CheckOptions", "Findings", "Places", "Sample"]

KINDS = ("text", "conversations", "pairs")
UNITS = {"text": ("documents", "document"), "conversations": ("conversations", "conversation"),
         "pairs": ("pairs", "pair")}  # fmt: skip


@dataclass
class Places:
    """How often something was found, and the first places."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(place)


@dataclass(frozen=True)
class Sample:
    """An example as text, in stretches, each with whether it is trained on."""

    where: str
    tokens: int
    parts: tuple[tuple[str, bool], ...]


@dataclass
class Findings:
    """What was found in data; a document is a conversation or a pair where the kind says so.

    lengths: numbers of examples by the power of two that their tokens (without a tokenizer:
    characters) are below; of a pair its longer side counts. longer: examples of more than seq_len
    tokens; cut_tokens: their tokens beyond it. trained: tokens that count in the loss. ended:
    examples with an end of text, or of a turn, among their targets. unread: how many records have
    each field that is not read. scripts: bytes by writing system. near: documents that are almost
    another one, near_overlap: almost one of the validation text; None where nobody asked. bill:
    what a run takes. samples: the first examples. notes: sentences for the user.
    """

    kind: str = "text"
    files: int = 0
    documents: int = 0
    examples: int = 0
    text_bytes: int = 0
    tokens: int | None = None
    trained: int | None = None
    longest: int = 0
    longer: int | None = None
    cut_tokens: int | None = None
    ended: int | None = None
    lengths: dict[int, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    scripts: dict[str, int] = field(default_factory=dict)
    bad_records: Places = field(default_factory=Places)
    replacements: Places = field(default_factory=Places)
    mojibake: Places = field(default_factory=Places)
    nuls: Places = field(default_factory=Places)
    repeated: Places = field(default_factory=Places)
    overlap: Places = field(default_factory=Places)
    near: Places | None = None
    near_overlap: Places | None = None
    equal: Places = field(default_factory=Places)
    bill: Bill | None = None
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def faults(self) -> list[str]:
        """Sentences about what would spoil a run."""
        return [sentence for sentence, _ in self.list_faults()]

    def list_faults(self) -> list[tuple[str, list[str]]]:
        """Sentences about what would spoil a run, each with further places, up to ten in all."""
        many, one = UNITS[self.kind]
        found = (
            (self.bad_records, "bad records", "bad record", ""),
            (self.replacements, many, one, " with U+FFFD, a lost character"),
            (self.mojibake, many, one, " decoded wrongly, such as Ã© for é"),
            (self.nuls, many, one, " with NUL characters"),
            (self.overlap, many, one, " in the validation text, too"),
            (self.near_overlap, many, one, " almost in the validation text, too"),
            (self.equal, many, one, " whose chosen equals rejected"),
        )
        faults = [
            (
                f"{format_count(places.count, words, word)}{what}; the first: {places.first[0]}",
                places.first[1:],
            )
            for places, words, word, what in found
            if places is not None and places.count
        ]
        if self.ended == 0 and self.examples:
            examples = format_count(self.examples, "examples")
            sentence = f"no end of text among the targets of any of {examples}"
            faults.append((f"{sentence}: a model trained on them never ends", []))
        return faults

    @property
    def bytes_per_token(self) -> float | None:
        """How much text a token stands for; None without a tokenizer, and of rendered records."""
        return self.text_bytes / self.tokens if self.tokens and self.kind == "text" else None


@dataclass(frozen=True)
class CheckOptions:
    """How data is read for a check, and what is looked for.

    kind: one of KINDS. seq_len: of a run. near_duplicates: the similarity of documents that are
    told, None not to look. template: a Jinja file for records, None for that of `template_config`,
    the tokenizer's tokenizer_config.json. show_samples: how many examples are shown. plan: of the
    run that is to be paid for.
    """

    text_format: TextFormat = field(default_factory=TextFormat)
    seq_len: int = 256
    kind: str = "text"
    near_duplicates: float | None = None
    show_samples: int = 0
    plan: RunPlan = field(default_factory=RunPlan)
    template: Path | None = None
    template_config: dict[str, object] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"kind {self.kind!r} is unknown; known are {', '.join(KINDS)}")
        if self.seq_len < 1:
            raise DataError(f"--seq-len must be at least 1, got {self.seq_len}")
        if self.show_samples < 0:
            raise DataError(f"--show-samples must be at least 0, got {self.show_samples}")
