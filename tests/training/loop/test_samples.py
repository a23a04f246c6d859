"""Texts written while training: what they are, and that they change nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import UserError
from models import load
from models.decoding.generate import check_length, generate
from models.decoding.settings import Sampling
from models.registry import build
from tests.registered_models import spec_of
from tests.training.runs import run, run_conf, write_corpus
from training.checkpoints.find import path_of, saved
from training.run import train
from training.run_folder.folder import RunFolder

WRITES = {
    "training__sample_every": 2,
    "training__sample_prompt": "alpha ",
    "training__sample_tokens": 12,
    "checkpoint__keep": "last:4",
    "checkpoint__every_n_train_steps": 4,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def texts(path: Path) -> list[tuple[int, str]]:
    rows: list[Any] = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(row["prompt"] == "alpha " for row in rows)
    return [(row["step"], row["text"]) for row in rows]


def test_texts_longer_than_the_model_reads_are_refused_before_the_first_step(
    tmp_path: Path, corpus: Path
) -> None:
    conf = run_conf(tmp_path, corpus, **WRITES | {"training__sample_tokens": 27})
    spec, folder = spec_of("gpt", n_positions=32), RunFolder(tmp_path / "run")
    check_length(build(spec), 6, 27)  # the last token is not read
    conf.training.sample_tokens = 28
    with pytest.raises(UserError, match=r"reads at most 32 .* 28 new .* prompt of 6 .* most 27"):
        train(conf, spec, folder)
    assert not folder.metrics.read_text()


def test_samples_change_no_bits_and_resume(tmp_path: Path, corpus: Path) -> None:
    plain, _ = run(run_conf(tmp_path / "plain", corpus))
    summary, folder = run(run_conf(tmp_path / "writes", corpus, **WRITES))
    assert summary["digest"] == plain["digest"]
    assert summary["val_loss"] == plain["val_loss"]
    written = texts(folder.path / "samples.jsonl")
    assert [step for step, _ in written] == [2, 4, 6, 8]

    # What was written is what the weights of that step write.
    model = load(path_of(folder, 4), torch.device("cpu"))
    generator = torch.Generator().manual_seed(4)
    tokens = generate(model, torch.tensor([*b"alpha "]), 12, Sampling(0.8, 50), generator)
    assert bytes(token for token in tokens if token < 256).decode(errors="replace") == written[1][1]

    # As if killed between steps 7 and 8.
    folder.summary_path.unlink()
    saved(folder)[-1].unlink()
    with (folder.path / "samples.jsonl").open("a") as file:
        file.write('{"step": "x"}\n[1]\n')
    again, _ = run(run_conf(tmp_path / "writes", corpus, **WRITES))
    assert again["digest"] == plain["digest"]
    assert texts(folder.path / "samples.jsonl") == written
