"""The texts of many requests that are there from the start, by an engine."""

from collections.abc import Callable, Iterable, Sequence

from hermes.errors import HermesError
from hermes.inference.engine import Engine
from hermes.inference.generated_text import GeneratedText
from hermes.inference.request import Generation, Request

__all__ = ["IN_FLIGHT", "generate_texts", "run_requests"]

IN_FLIGHT = 4  # requests for each row that are begun before the first of them is written


def run_requests(engine: Engine, requests: Iterable[Request]) -> list[Generation]:
    """Generate all texts, in the order of the requests, which are taken as rows are free."""
    found = []
    for request in requests:
        # All rows begin together: a step of few rows takes nearly as long as one of many.
        while not engine.has_free_row:
            engine.step()
        found.append(engine.submit(request))
    engine.run()
    return found


def generate_texts(
    engine: Engine,
    requests: Sequence[Request],
    describe: Callable[[Generation, int], GeneratedText],
    write: Callable[[int, GeneratedText], object],
    report: Callable[[int], object] = lambda done: None,
) -> list[GeneratedText]:
    """Generate the texts of all requests, and write each in their order as soon as it can be.

    write: takes a request's number and its text. report: takes how many are written. A request
    that fails is an error of the whole, after those before it are written.
    """
    texts: list[GeneratedText] = []
    begun: list[Generation] = []
    most = IN_FLIGHT * engine.num_rows
    while len(texts) < len(requests):
        while len(begun) < len(requests) and len(begun) - len(texts) < most:
            begun.append(engine.submit(requests[len(begun)]))
        engine.step()
        while len(texts) < len(begun) and begun[len(texts)].is_done:
            number = len(texts)
            if (error := begun[number].error) is not None:
                raise HermesError(f"prompt {number + 1}: {error}") from error
            texts.append(describe(begun[number], number))
            write(number, texts[-1])
        report(len(texts))
    return texts
