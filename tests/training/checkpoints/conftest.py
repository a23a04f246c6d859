"""A corpus, and a finished run whose checkpoints others start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.runs import run, run_conf, write_corpus
from training.run_folder.folder import RunFolder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> RunFolder:
    """Four steps of 4 x 32 tokens, saved at 2 and 4."""
    folder = tmp_path_factory.mktemp("parent")
    return run(run_conf(folder, corpus, checkpoint__every_n_train_steps=2, trainer__max_steps=4))[1]
