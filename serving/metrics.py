"""What the server has done, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from serving.answers import Answering, Price
from serving.served_model import ServedModel


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
        self.worker = counter("crossover_worker_seconds", "Seconds of workers.")
        self.processor = counter("crossover_processor_seconds", "Seconds of processors.")
        self.joules = counter("crossover_joules", "Joules, where a device counts them.")
        self.cost = counter("crossover_cost", "Cost, where there is a price.")
        self.passed = counter(
            "crossover_passed", "Requests of a route that a model could not answer.", "route",
            "reason",
        )  # fmt: skip
        gauge = ("model",)
        self._waiting = Gauge(
            "crossover_requests_waiting", "Requests without a whole answer.", gauge,
            registry=self._registry,
        )  # fmt: skip
        self._restarts = Gauge(
            "crossover_workers_restarted", "Workers that ended and were replaced.", gauge,
            registry=self._registry,
        )  # fmt: skip
        self._closed = Gauge(
            "crossover_breaker_closed", "1: routes ask the model; 0: they leave it alone.", gauge,
            registry=self._registry,
        )  # fmt: skip

    def add(self, model: str, answering: Answering, price: Price | None) -> None:
        """What a model has read and drawn for a request, and what that has cost."""
        self.read.labels(model).inc(answering.read)
        self.cached.labels(model).inc(answering.cached)
        self.drawn.labels(model).inc(answering.tokens)
        spent = answering.spent
        self.worker.labels(model).inc(spent.seconds)
        self.processor.labels(model).inc(spent.processor)
        if spent.joules is not None:
            self.joules.labels(model).inc(spent.joules)
        if price is not None:
            self.cost.labels(model).inc(price.of(spent))

    def text(self, models: Iterable[ServedModel]) -> bytes:
        """All of them, with what is true now."""
        for model in models:
            supervisor = model.supervisor
            self._waiting.labels(supervisor.name).set(supervisor.waiting)
            self._restarts.labels(supervisor.name).set(supervisor.restarts)
            self._closed.labels(supervisor.name).set(model.breaker.state == "closed")
        return generate_latest(self._registry)
