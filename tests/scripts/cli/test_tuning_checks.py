"""Fine-tunings that cannot be: each is refused in one line, with a way out."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from conf import schema
from conf.schema import FOLDER
from scripts.cli.check import configuration_problems, problems_of

FROM = "init_from=first"  # nothing of it is read here

GOOD = [
    ["tune=lora", FROM, "tune.rank=8", "tune.alpha=16", "tune.targets=[att,ffn.key]"],
    ["tune=state", FROM, "training.segment=128", "optim.ema=0.9"],
    ["tune=state", FROM, "model=lstm", "trainer.devices=2"],
    ["tune=lora", FROM, "model=gpt", "tune.targets=[qkv]", "take=weights"],
    ["tune=full"],
]

BAD = [
    (["tune=lora"], "there is no from=: give a run, a checkpoint or a file of weights"),
    (["tune=state", FROM, "model=transformer"], "the Transformer has no recurrent state"),
    (["tune=lora", FROM, "tune.rank=0"], "tune.rank=0: must be at least 1"),
    (
        ["tune=lora", FROM, "tune.rank=600", "tune.targets=[att]"],
        "tune.rank=600: the layers that get an adapter have the rank 256 at most",
    ),
    (["tune=lora", FROM, "tune.alpha=0"], "tune.alpha=0.0: must be at least"),
    (["tune=lora", FROM, "tune.targets=[att.kei]"], "it has att.key, att.value, att.receptance"),
    (["tune=lora", FROM, "tune.targets=[head]"], "has no linear layer head in its blocks"),
    (["tune=state", FROM, "tune.rank=3"], "tune.rank=3 changes nothing without tune=lora"),
    (["tune.targets=[att]"], "changes nothing without tune=lora"),
    (["tune=lora", FROM, "take=weights,optimizer"], "use take=weights"),
    (["tune=lora", FROM, "resize_vocab=true"], "would never be trained: use tune=full"),
    (["tune=lora", FROM, "trainer.strategy=fsdp"], "not with trainer.strategy=fsdp; use ddp"),
    (["tune=lora", FROM, "optim.name=muon"], "use optim.name=adamw"),
    (
        ["tune=state", FROM, "training.segment=16", "training.bptt=truncated"],
        "cuts the gradient before it reaches the state",
    ),
    (
        ["tune=state", FROM, "trainer.devices=2", "trainer.sequence_parallel=true"],
        "not with trainer.sequence_parallel=true",
    ),
]


def problems(*words: str) -> list[str]:
    schema.register("train")
    plain = [word.replace("weights,optimizer", "'weights,optimizer'") for word in words]
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        return configuration_problems("train", compose("train", overrides=plain))


@pytest.mark.parametrize("words", GOOD)
def test_good_lines_pass(words: list[str]) -> None:
    assert problems(*words) == []


@pytest.mark.parametrize(("words", "expected"), BAD)
def test_bad_lines_are_refused(words: list[str], expected: str) -> None:
    (problem,) = problems(*words)
    assert expected in problem and "\n" not in problem


def test_a_way_of_tuning_that_nobody_knows() -> None:
    (problem,) = problems_of("train", ["tune=lara"])
    assert problem == "tune=lara: no such tune; did you mean 'lora'?"
