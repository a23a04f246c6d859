"""What a training has used, beside steps, tokens, operations and seconds, where it was asked for.

Joules come from the device's own counter, cost from a price and the seconds of training steps, MFU
from a peak that was given or measured. Where nothing was asked for, and no GPU is used, there is no
object of this kind.
"""

from __future__ import annotations

import logging

import torch

from conf.schema import TrainConf, TrainingConf
from core import energy
from core.peak_rate import highest_rate
from training.distributed.strategies import on_gpu

log = logging.getLogger("crossover")

DTYPES = {"32-true": torch.float32, "16-mixed": torch.float16}
"""Precisions of arithmetic; any other is bf16."""


class Expenses:
    """Further figures of each row of metrics.

    Joules are those of the whole device from the start of the training on, idling, validations and
    saves included, as far as every session of it counted them.
    """

    def __init__(self, conf: TrainingConf, precision: str, flops_per_token: float) -> None:
        """`flops_per_token` counts forward and backward pass."""
        self._conf, self._precision = conf, precision
        self._wanted = set(conf.also)
        self._flops_per_token = flops_per_token
        self._counter: energy.Counter | None = None
        self._peak: float | None = conf.peak_flops or None
        self._joules: float | None = 0.0
        """Sum over earlier sessions and this one up to the last reading; None if not known."""
        self._last: list[float] = []

    @classmethod
    def of(cls, conf: TrainConf, flops_per_step: int, tokens_per_step: int) -> Expenses | None:
        """None where no key asks for any of them; a GPU always shows its use and its energy."""
        conf_of, on_a_gpu = conf.training, on_gpu(conf.trainer)
        if not conf_of.also and conf_of.price_per_hour is None and not on_a_gpu:
            return None
        made = cls(conf_of, conf.trainer.precision, flops_per_step / tokens_per_step)
        if on_a_gpu:
            made._wanted = {"joules", "mfu"}
        return made

    def start(self, device: torch.device, processes: int) -> None:
        """Find the counter and the peak, before the first step of this session."""
        if "joules" in self._wanted:
            self._counter = energy.find(device.type)
            why = "" if self._counter.sources else self._counter.method
            if processes > 1:
                why = "unavailable: the counter of one device is not that of several processes"
            if self._joules is None:
                why = "steps before these were not counted, so their sum is not known"
            if why and "joules" in self._conf.also:
                log.warning("training.also=[joules]: %s", why.removeprefix("unavailable: "))
            if why:
                self._counter = None
            else:
                self._last = self._counter.read()
        if "mfu" in self._wanted and self._peak is None:
            kind = device.type
            generators = [device] if kind == "cuda" else []
            with torch.random.fork_rng(generators):  # the weights' bits follow from the generators
                dtype = DTYPES.get(self._precision, torch.bfloat16)
                self._peak = processes * highest_rate(kind, dtype)
            if "mfu" in self._conf.also:
                log.warning(
                    "training.also=[mfu]: a matrix product reaches %.4g operations per second here",
                    self._peak,
                )

    def spent(self, seconds: float | None) -> dict[str, float]:
        """Joules and cost so far; `seconds` are those of all training steps."""
        figures = {}
        if self._counter is not None and (joules := self._read()) is not None:
            figures["train/joules"] = joules
        if self._conf.price_per_hour is not None and seconds is not None:
            figures["train/cost"] = seconds / 3600 * self._conf.price_per_hour
        return figures

    def use(self, tokens_per_second: float) -> dict[str, float]:
        """The share of the peak that the counted operations reach at this pace."""
        if "mfu" not in self._wanted or not self._peak:
            return {}
        return {"train/mfu": self._flops_per_token * tokens_per_second / self._peak}

    def _read(self) -> float | None:
        if self._counter is not None and self._joules is not None:
            self._joules += self._counter.since(self._last)
            self._last = self._counter.read()
        return self._joules

    def state(self) -> float | None:
        """Joules so far, from which a later session goes on; None where they are not known."""
        return None if self._counter is None else self._read()

    def restore(self, joules: float | None) -> None:
        """Go on from the `state` of an earlier session."""
        self._joules = joules
