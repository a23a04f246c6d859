"""Compiled blocks under every strategy: the bits of those that are not, without a break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conf.schema import TrainConf
from models.registry import build
from tests.registered_models import NAMES, spec_of
from tests.training.distributed.test_strategies import STRATEGIES
from tests.training.ranks import Job, folder_of, launch
from tests.training.runs import run, run_conf, write_corpus
from training.run_folder.folder import RunFolder

SHORT: dict[str, Any] = {
    "trainer__max_steps": 2,
    "trainer__accumulate_grad_batches": 2,
    "trainer__gradient_clip_val": 0.5,
    "trainer__val_check_interval": 2,
    "checkpoint__every_n_train_steps": 2,
    "training__gradient_checkpointing": True,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def place(folder: Path, corpus: Path, strategy: str, compiler: str, **changes: Any) -> TrainConf:
    changes = SHORT | changes | {"trainer__strategy": strategy, "trainer__compile": compiler}
    return run_conf(folder, corpus, **changes, name=f"{strategy}-{compiler}")


@pytest.mark.parametrize(
    "strategy",
    ["fsdp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("auto", "deepspeed_3"))],
)
def test_the_bits_of_one_process_stay(tmp_path: Path, corpus: Path, strategy: str) -> None:
    digests = []
    for compiler in ("none", "eager"):
        conf = place(tmp_path, corpus, strategy, compiler, trainer__precision="bf16-mixed")
        summary, _ = run(conf, "rwkv4")
        assert summary["backends"]["compile"] == compiler  # and no word of breaks
        digests.append(summary["digest"])
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.parametrize("model", NAMES)
def test_the_bits_of_two_processes_stay(tmp_path: Path, corpus: Path, model: str) -> None:
    pairs = [
        [place(tmp_path, corpus, strategy, compiler) for compiler in ("none", "aot_eager")]
        for strategy in STRATEGIES
    ]
    assert not any(launch([Job(conf, model) for pair in pairs for conf in pair], tmp_path))
    for pair in pairs:
        summaries = [RunFolder(folder_of(conf)).summary() for conf in pair]
        plain, compiled = (summary or {} for summary in summaries)
        if model == "gru":  # whose gradients are summed in another order
            assert compiled["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-4)
        else:
            assert plain["digest"] == compiled["digest"]
        blocks: Any = build(spec_of(model))
        is_compiled = not any(block.compile_problem for block in blocks.layers)
        assert compiled["backends"]["compile"] == ("aot_eager" if is_compiled else "none")
