"""What a server has done since it began, as Prometheus reads it."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Statistics"]

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Statistics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "hermes_requests",
            "Requests by path and status of the answer",
            ["path", "status"],
            registry=self._registry,
        )
        self.prompt_tokens = Counter(
            "hermes_prompt_tokens", "Tokens of prompts", registry=self._registry
        )
        self.generated_tokens = Counter(
            "hermes_generated_tokens", "Tokens that were generated", registry=self._registry
        )
        self.first_token_seconds = Histogram(
            "hermes_time_to_first_token_seconds",
            "Seconds from a text's request to its first token",
            buckets=SECONDS,
            registry=self._registry,
        )

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a number that is read when it is asked for."""
        Gauge(name, help_text, registry=self._registry).set_function(read)

    def render(self) -> bytes:
        """All numbers as text."""
        return generate_latest(self._registry)
