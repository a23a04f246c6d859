"""A run folder from anywhere: nothing in it is executed, and what is damaged is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.errors import UserError
from core.files import write_manifest
from tests.faults.weights import Payload
from tests.training.runs import run, run_conf, write_corpus
from training.checkpoints.weights_source import find_source
from training.run_folder.folder import RunFolder

CONFIGS = {
    "a tag": "!!python/object/apply:os.system ['touch {marker}']\n",
    "a tag inside": "model: !!python/object/new:os.system ['touch {marker}']\n",
    "a list": "- 1\n- 2\n",
    "no YAML": "a: [1\nb: }\n",
    "no text": "\x00\x01",
    "very deep": "[" * 5000,
    "a class path": "model:\n  name: rwkv4\n  target: os.system\n",
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_is_only_read(tmp_path: Path, kind: str) -> None:
    folder, marker = RunFolder(tmp_path / "runs" / "run"), tmp_path / "executed"
    folder.path.mkdir(parents=True)
    folder.config.write_text(CONFIGS[kind].replace("{marker}", str(marker)))
    with pytest.raises(UserError) as refused:
        run(run_conf(tmp_path / "runs", write_corpus(tmp_path)))
    assert not marker.exists() and "\n" not in str(refused.value)
    assert not folder.checkpoints.exists()


def test_a_checkpoint_with_code_is_not_continued(tmp_path: Path) -> None:
    folder, marker = RunFolder(tmp_path / "runs" / "run"), tmp_path / "executed"
    folder.checkpoints.mkdir(parents=True)
    path = folder.checkpoints / "step-00000003.ckpt"
    torch.save({"global_step": 3, "crossover": Payload(marker)}, path)
    write_manifest(path)
    with pytest.raises(UserError, match="contains code"):
        run(run_conf(tmp_path / "runs", write_corpus(tmp_path)))
    assert not marker.exists()


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[1]", "{}", '{"steps": '])
def test_a_damaged_summary_is_none(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.summary_path.write_text(text)
    assert folder.summary() is None


def test_a_tokenizer_that_is_a_link_out_of_the_run_is_not_opened(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "run")
    folder.checkpoints.mkdir(parents=True)
    checkpoint = folder.checkpoints / "step-00000001.ckpt"
    checkpoint.write_bytes(b"1")
    write_manifest(checkpoint)
    (tmp_path / "secret").write_text("{}")
    folder.tokenizer.symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="link out of its folder"):
        find_source("run", "run", str(tmp_path / "runs"))
