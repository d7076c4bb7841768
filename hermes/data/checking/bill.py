"""What a run on checked data takes: steps, tokens, hours, and what they cost."""

from dataclasses import dataclass

from hermes.data.order import count_run_samples
from hermes.errors import DataError

__all__ = ["Bill", "RunPlan"]


@dataclass(frozen=True)
class RunPlan:
    """A run that is to be paid for: samples of a step, epochs, speed and price.

    batch_size: sequences of a step over all micro-batches and processes, times grad_accum.
    tokens_per_second: of all processes together, 0 if unknown; price_per_hour: likewise.
    """

    batch_size: int = 32
    grad_accum: int = 1
    epochs: float = 1.0
    tokens_per_second: float = 0.0
    price_per_hour: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("grad_accum", 1)):
            if getattr(self, name) < least:
                raise DataError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("tokens_per_second", "price_per_hour"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.epochs <= 0:
            raise DataError(f"epochs must be above 0, got {self.epochs}")
        if self.price_per_hour and not self.tokens_per_second:
            raise DataError("--price-per-hour needs a speed: give --tokens-per-second")

    def compute_bill(self, samples: int, tokens: int) -> "Bill | None":
        """Compute the bill for samples, rows or pairs, of an epoch of `tokens` tokens.

        None where there is no sample.
        """
        if not samples:
            return None
        per_step = self.batch_size * self.grad_accum
        wanted = count_run_samples(samples, epochs=self.epochs, max_steps=0, per_update=per_step)
        read = round(tokens * wanted / samples)
        hours = read / self.tokens_per_second / 3600 if self.tokens_per_second else None
        price = hours * self.price_per_hour if hours is not None and self.price_per_hour else None
        return Bill(samples, -(-wanted // per_step), read, hours, price)


@dataclass(frozen=True)
class Bill:
    """What a run takes. samples: of an epoch. hours, price: None where speed or price is unknown.

    price: in the currency of the price per hour.
    """

    samples: int
    steps: int
    tokens: int
    hours: float | None = None
    price: float | None = None
