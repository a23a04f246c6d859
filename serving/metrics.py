"""What the server has done, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from serving.supervisor import Supervisor


class Metrics:
    """The sums of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(name, meaning, ("model", *labels), registry=self._registry)

        self.requests = counter("crossover_requests", "Requests, by HTTP status.", "status")
        self.read = counter("crossover_tokens_read", "Tokens of prompts.")
        self.cached = counter("crossover_tokens_cached", "Those that were not read again.")
        self.drawn = counter("crossover_tokens_drawn", "Tokens of answers.")
        self.seconds = counter("crossover_seconds", "From a request to the end of its answer.")
        gauge = ("model",)
        self._waiting = Gauge(
            "crossover_requests_waiting", "Requests without a whole answer.", gauge,
            registry=self._registry,
        )  # fmt: skip
        self._restarts = Gauge(
            "crossover_workers_restarted", "Workers that ended and were replaced.", gauge,
            registry=self._registry,
        )  # fmt: skip

    def text(self, models: Iterable[Supervisor]) -> bytes:
        """All of them, with what is true now."""
        for model in models:
            self._waiting.labels(model.name).set(model.waiting)
            self._restarts.labels(model.name).set(model.restarts)
        return generate_latest(self._registry)
