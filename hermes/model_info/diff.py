"""How two architectures differ: in structure, in cost, and in which tensors fit both."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from hermes.model_info.cost import Cost, compute_cost
from hermes.model_info.shape import describe_layer, describe_model, format_ranges
from hermes.numerics.params import list_parameters
from hermes.spec import BlockSpec, ModelSpec

__all__ = ["Change", "Difference", "Reshaped", "compare"]


@dataclass(frozen=True)
class Change:
    """A key that differs: where ("model", "layers 0-11"), and both values in MAL."""

    where: str
    key: str
    a: str
    b: str


@dataclass(frozen=True)
class Reshaped:
    """A tensor that has different shapes in the two models."""

    name: str
    a: tuple[int, ...]
    b: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """The differences between models a and b.

    same: whether both compute the same function of the same tensors; names of models and parts do
    not matter. reusable: tensors with the same name and shape in both, which can be copied.
    reshaped: with the same name and different shapes. only_a, only_b: in one model alone.
    """

    a: ModelSpec
    b: ModelSpec
    same: bool
    structure: tuple[Change, ...]
    cost_a: Cost
    cost_b: Cost
    reusable: tuple[str, ...]
    reshaped: tuple[Reshaped, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Convert to what `hermes mal diff --json` prints."""
        return {
            "a": {"name": self.a.name, **vars(self.cost_a)},
            "b": {"name": self.b.name, **vars(self.cost_b)},
            "same": self.same,
            "structure": [asdict(change) for change in self.structure],
            "tensors": {
                "reusable": list(self.reusable),
                "reshaped": [asdict(tensor) for tensor in self.reshaped],
                "only_a": list(self.only_a),
                "only_b": list(self.only_b),
            },
        }


def compare(a: ModelSpec, b: ModelSpec) -> Difference:
    """Compare two models."""
    left, right = list_parameters(a), list_parameters(b)
    both = [name for name in left if name in right]
    return Difference(
        a=a,
        b=b,
        same=a.identity == b.identity,
        structure=(*_find_model_changes(a, b), *_find_layer_changes(a, b)),
        cost_a=compute_cost(a),
        cost_b=compute_cost(b),
        reusable=tuple(name for name in both if left[name].shape == right[name].shape),
        reshaped=tuple(
            Reshaped(name, left[name].shape, right[name].shape)
            for name in both
            if left[name].shape != right[name].shape
        ),
        only_a=tuple(name for name in left if name not in right),
        only_b=tuple(name for name in right if name not in left),
    )


def _find_changes(where: str, a: Mapping[str, str], b: Mapping[str, str]) -> list[Change]:
    """Find the keys with other values; one that a side does not have is "-" there."""
    pairs = ((key, a.get(key, "-"), b.get(key, "-")) for key in {**a, **b})
    return [Change(where, key, left, right) for key, left, right in pairs if left != right]


def _find_model_changes(a: ModelSpec, b: ModelSpec) -> list[Change]:
    return _find_changes("model", describe_model(a), describe_model(b))


def _find_layer_changes(a: ModelSpec, b: ModelSpec) -> list[Change]:
    """Find the changes in layers that both models have; equal changes are listed once."""
    pairs: dict[tuple[BlockSpec, BlockSpec], list[int]] = {}
    for index, pair in enumerate(zip(a.layers, b.layers, strict=False)):
        pairs.setdefault(pair, []).append(index)
    return [
        change
        for (left, right), indices in pairs.items()
        if left != right
        for change in _find_changes(
            f"layers {format_ranges(indices)}", describe_layer(left), describe_layer(right)
        )
    ]
