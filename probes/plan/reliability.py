"""How often to save, and what failures cost a long job (Young 1974; Daly 2006)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Reliability:
    """Seconds, but for the share."""

    failure_every: float
    """Mean time between failures of the whole job."""
    save: float
    """To write one checkpoint."""
    interval: float
    """Best number of seconds of computing between two checkpoints."""
    lost: float
    """Share of all time that goes into saving, repeating and restarting."""


def reliability(
    mtbf_hours: float, devices: int, checkpoint_bytes: float, bytes_s: float, restart_s: float
) -> Reliability:
    """Independent failures at a constant rate, each ending the whole job.

    The interval is Daly's higher-order estimate (Future Generation Computer Systems 22, 2006, eq.
    37), the share lost that of his exact model (eq. 20). Once writing takes longer than twice the
    time between failures, the interval is that time.
    """
    mean = mtbf_hours * 3600 / devices
    save = checkpoint_bytes / bytes_s
    if save < 2 * mean:
        ratio = math.sqrt(save / (2 * mean))
        interval = math.sqrt(2 * save * mean) * (1 + ratio / 3 + ratio**2 / 9) - save
    else:
        interval = mean
    interval = max(interval, 1e-9)
    exponents = restart_s / mean, (interval + save) / mean
    if sum(exponents) > 700:  # beyond what a float holds: no progress at all
        return Reliability(mean, save, interval, 1.0)
    stretch = mean / interval * math.exp(exponents[0]) * math.expm1(exponents[1])
    return Reliability(mean, save, interval, 1 - 1 / stretch)
