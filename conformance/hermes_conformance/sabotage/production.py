"""Faults of paths that only production takes: short caches, slices, compiled and recomputed ones."""

from hermes_conformance.sabotage.fault import Fault, Inside


def _short(dtype) -> bool:
    return str(dtype).endswith("bfloat16")


def _early_in_bfloat16(inside: Inside) -> None:
    """What is read after the first read of a bfloat16 cache is turned as one place before."""

    def make(original):
        def wrong(self, spec, T):
            if not (_short(self.dtype) and self.memory and self.offset):
                return original(self, spec, T)
            tables = self.tables.angles[spec.position_encoding, spec.rotary_size]
            return tuple(table[self.offset - 1 : self.offset - 1 + T] for table in tables)

        return wrong

    inside.method("context", "Context", "angles", make)


def _fault(name, law, case, plant, only=None):
    return Fault(name, "production", law, case, plant, only)


FAULTS = (
    _fault(
        "rope in a bfloat16 cache is a place early",
        "L3/decoding",
        "default/hot",
        _early_in_bfloat16,
    ),
)
