"""What hermes knows of one family of models: a row of the table in `families`."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hermes.errors import HermesError
from hermes.interop.huggingface.draft import Draft, View, strip_rates
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.layers import find_common_block, has_valid_ramp
from hermes.interop.huggingface.parts import Always, Config, Part, Unfit
from hermes.interop.huggingface.windows import refuse_windows
from hermes.spec import ModelSpec, Rope

__all__ = ["Family", "is_same_function", "make_view"]

Modules = Mapping[str, str]
# Scales of embeddings are roots, written in a file with the digits that its author found enough.
EXACT, OF_A_ROOT = 1e-12, 1e-7


@dataclass(frozen=True)
class Family:
    """A class of Hugging Face's: the fields of its config.json, and the names of its tensors.

    parts: in the order in which they are read. modules: its names of modules to ours, see
    `tensor_modules`, None where they are ours; chosen by the specification where they depend on it.
    pairs: how the rotary pairs of a head lie there, so that rows of q and k are permuted: in two
    'halves' as ours, as 'neighbours', or in 'swapped' halves, which turn the other way.
    norms_by_head: weights of qk_norm over each head are (H, D) there. head_norms: or a module for
    each {head} of {name}, q or k. has_unit_head: whether the class divides each row of the head by
    its length, which is done once, when it is read. harmless: fields that change
    nothing here, apart by spaces. accepts: whether the class works for a specification that its
    fields could say. adapt: changes what the parts read, by fields of its own. writable: whether
    other tools have the class, so that `--to hf` writes it.
    """

    model_type: str
    architecture: str
    parts: tuple[Part, ...]
    modules: Modules | Callable[[ModelSpec], Modules] | None = None
    pairs: str = "halves"
    norms_by_head: bool = False
    head_norms: str = ""
    has_unit_head: Callable[[ModelSpec], bool] = lambda spec: False
    harmless: str = ""
    accepts: Callable[[ModelSpec], bool] = lambda spec: True
    adapt: Callable[[Fields, ModelSpec], ModelSpec] = lambda fields, spec: spec
    writable: bool = True

    @property
    def renamed(self) -> bool:
        """Whether all its files have other tensors than ours."""
        return self.modules is not None or self.pairs != "halves" or self.norms_by_head

    def has_head_norms(self, spec: ModelSpec) -> bool:
        """Whether its files of a specification have a module for the norm of each head."""
        norm = spec.attentions[0].query_key_norm if self.head_norms and spec.attentions else None
        return norm is not None and norm.over == "each_head"

    def is_renamed(self, spec: ModelSpec) -> bool:
        """Whether its files of a specification have other tensors than ours."""
        return self.renamed or self.has_head_norms(spec)

    def read(self, fields: Fields) -> ModelSpec:
        """Read a configuration of this family, named by it. Raises SpecError."""
        draft = Draft()
        for part in self.parts:
            part.read(fields, draft)
        if not draft.windows:
            refuse_windows(fields, draft)
        spec = self.adapt(fields, draft.build(self.model_type))
        fields.finish(self.harmless.split())
        return spec

    def write(self, spec: ModelSpec) -> Config:
        """Write a specification's fields. Raises Unfit where the class cannot express it."""
        view = make_view(spec)
        if view is None:
            raise Unfit("layers differ in more than windows and positions")
        return self._write(view)

    def _write(self, view: View) -> Config:
        config = Config()
        for part in self.parts:
            config |= part.write(view)
        return config

    def can_express(self, view: View) -> bool:
        """Whether the class computes what a specification does.

        It does if what it writes of the specification reads back as the same function.
        """
        try:
            if not self.accepts(view.spec) or not self._has_traits(view):
                return False
            return is_same_function(self.read(Fields(self._write(view))), view.used)
        except HermesError:
            return False

    def _has_traits(self, view: View) -> bool:
        """Whether a specification has what the class always has, which is soon seen."""
        traits = [part for part in self.parts if isinstance(part, Always)]
        return all(view[trait.path] == trait.value for trait in traits)

    def find_modules(self, spec: ModelSpec) -> Modules | None:
        """Find its names of modules for a specification; None where they are ours."""
        return self.modules(spec) if callable(self.modules) else self.modules


def make_view(spec: ModelSpec) -> View | None:
    """Make the view of a specification that classes are asked about; None if no class can fit.

    None where layers differ in more than windows and positions, and for a YaRN whose ramp is empty,
    which readers compute differently.
    """
    block = find_common_block(spec)
    ropes = {attention.position_encoding for attention in spec.attentions}
    valid = all(has_valid_ramp(spec, rope) for rope in ropes if isinstance(rope, Rope))
    return View(spec, block) if block is not None and valid else None


def is_same_function(a: ModelSpec, b: ModelSpec) -> bool:
    """Whether two specifications compute the same but for dropout and the rounding of numbers."""
    return _is_close(strip_rates(a).identity, strip_rates(b).identity)


def _is_close(a: object, b: object, tolerance: float = EXACT) -> bool:
    if a == b:
        return True
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_is_close(x, y) for x, y in set(zip(a, b, strict=True)))
    if type(a) is not type(b) or not dataclasses.is_dataclass(a):
        return False
    return all(
        _is_close(
            getattr(a, field.name),
            getattr(b, field.name),
            OF_A_ROOT if field.name == "scale" else EXACT,
        )
        for field in dataclasses.fields(a)
    )
