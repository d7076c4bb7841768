"""What becomes of a request that an engine cannot take, or whose backend fails."""

from hermes.errors import HermesError, OutOfMemory, describe_exhaustion, is_out_of_memory

__all__ = ["DecodingFailed", "QueueIsFull", "describe_failure"]


class DecodingFailed(HermesError):
    """The backend failed where no request was at fault."""


class QueueIsFull(HermesError):
    """As many requests wait as may; try again when some are done."""


def describe_failure(error: BaseException) -> HermesError:
    """A backend's error as hermes says it; memory that ran out is told from what else may fail."""
    if not is_out_of_memory(error):
        return DecodingFailed(f"decoding: {error}")
    asked = describe_exhaustion(error)
    told = f" ({asked})" if asked else ""
    return OutOfMemory(
        f"out of memory while decoding{told}; ask for fewer tokens or texts at once, or serve with "
        "fewer --rows"
    )
