"""Laws of L2 about decoders made for a GPU: their steps; device_choices.py has their choices."""

from collections.abc import Iterator

from hermes.errors import Unsupported
from hermes.interface import ChoosesTokens, DecodesOnDevice
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.laws.generation import can_decode
from hermes_conformance.laws.rows import RowReader, compare_with_pass
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends


def build_device_model(
    case: Case, backends: Backends, weights: Weights | None = None
) -> DecodesOnDevice:
    """The case's model, or one of these weights, that sums in any order, as production's.

    Raises Unsupported where it has no decoders made for a GPU.
    """
    subject = backends.subject
    if weights is None:
        model = subject.build_model(case, "float32", deterministic=False)
    else:
        options = subject.make_options("float32", deterministic=False)
        model = subject.backend.build(case.spec, weights, options)
    if not isinstance(model, DecodesOnDevice):
        raise Unsupported(f"{subject.name} has no decoders of its own for a GPU")
    return model


def make_decoder(case: Case, backends: Backends, rows: int) -> ChoosesTokens:
    """A decoder of rows of build_device_model. Raises Unsupported."""
    return build_device_model(case, backends).make_device_row_decoder(rows, case.T)


def device_rows(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Rows in the cache of a GPU's decoder err as float32 does in a full pass."""
    reader = RowReader(case, make_decoder(case, backends, 4))
    yield from compare_with_pass(case, backends, (*reader.read_all(), *reader.read_prefix()))


_KINDS = match_names("default/", "decoding.", "attention.", "edge.window")


def _is_hot(case: Case) -> bool:
    return can_decode(case) and case.name.endswith("/hot") and _KINDS(case)


LAWS = (
    Law(
        "L2",
        "device-rows",
        "rows in the cache of a GPU's decoder err as float32 does",
        tolerance.TOKEN_32,
        device_rows,
        _is_hot,
        precision="float32",
    ),
)
