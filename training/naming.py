"""The name of a run that was given none: what tells two runs of a sweep apart.

Imports nothing heavy: the jobs of a multirun are compared before any work.
"""

from __future__ import annotations

from conf.schema import TrainConf


def default_name(conf: TrainConf, model: str, size: str) -> str:
    """Of the contestant `model` at its preset `size`."""
    name = f"{model}-{size}-{conf.data.corpus}-l{conf.data.length}-s{conf.seed}"
    if conf.training.bptt == "truncated":  # not the gradients that other runs have
        name += f"-truncated{conf.training.segment}"
    return name
