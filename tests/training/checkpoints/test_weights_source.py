"""Where weights come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from core.errors import UserError
from core.files import write_manifest
from data.tokenizers import byte_tokenizer, char_tokenizer
from training.checkpoints.weights_source import Source, check_alike, check_tokenizer, find_source


def make_run(folder: Path, steps: int) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "tokenizer.json").touch()
    for step in range(steps):
        path = folder / "checkpoints" / f"step-{step:08d}.ckpt"
        path.write_text(str(step))
        write_manifest(path)
    return folder


def test_a_run_is_its_newest_sound_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "group" / "first", 3)
    second = run / "checkpoints" / "step-00000001.ckpt"
    expected = Source(run / "checkpoints" / "step-00000002.ckpt", run / "tokenizer.json")
    assert find_source("run", "group/first", str(tmp_path / "runs")) == expected
    assert find_source("run", str(run), "elsewhere") == expected
    assert find_source("run", str(second), "x") == Source(second, run / "tokenizer.json")
    expected.weights.write_text("damaged")
    assert find_source("run", str(run), "elsewhere").weights == second


def test_files_and_directories_stand_for_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.pth").touch()
    (tmp_path / "hf").mkdir()
    assert find_source("run", str(tmp_path / "a.pth"), "runs") == Source(tmp_path / "a.pth", None)
    assert find_source("run", str(tmp_path / "hf"), "runs") == Source(tmp_path / "hf", None)
    (tmp_path / "hf" / "tokenizer.json").touch()
    source = find_source("run", str(tmp_path / "hf"), "runs")
    assert source.tokenizer == tmp_path / "hf" / "tokenizer.json"


def test_nothing_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="source='none': no such run in runs/ and no such file"):
        find_source("source", "none", "runs")
    make_run(tmp_path / "empty", 0)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        find_source("run", "empty", str(tmp_path))


def test_a_group_lists_its_runs_and_a_bare_name_finds_its_group(tmp_path: Path) -> None:
    (tmp_path / "demo" / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "demo" / "b" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="is a group of runs: choose demo/a, demo/b"):
        find_source("run", "demo", str(tmp_path))
    with pytest.raises(UserError, match="did you mean run=demo/b"):
        find_source("run", "b", str(tmp_path))
    (tmp_path / "first" / "checkpoints").mkdir(parents=True)
    for name, nearest in (("frist", "first"), ("demo/bb", "demo/b"), ("frist@3", "first")):
        with pytest.raises(UserError, match=rf"no such run .*; did you mean from={nearest}\?"):
            find_source("from", name, str(tmp_path))
    with pytest.raises(UserError, match=r"no such file or folder$"):
        find_source("from", "nothing", str(tmp_path))


def test_a_checkpoint_that_is_a_tensor_is_none(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    run = make_run(tmp_path / "run", 0)
    path = run / "checkpoints" / "step-00000001.ckpt"
    torch.save(torch.zeros(3), path)
    write_manifest(path)
    check_tokenizer(Source(path, run / "tokenizer.json"), byte_tokenizer())
    with pytest.raises(UserError, match="is not a Crossover checkpoint"):
        models.load(path)
    assert not recwarn.list


def test_a_tokenizer_beside_foreign_weights_encodes_as_the_given_one_does(tmp_path: Path) -> None:
    given = tmp_path / "other.json"
    source = Source(tmp_path / "hf", tmp_path / "tokenizer.json")
    byte_tokenizer().save(tmp_path / "tokenizer.json")
    check_alike(source, byte_tokenizer(), given)
    letters = char_tokenizer(map(chr, range(300)))
    check_alike(Source(tmp_path / "hf", None), letters, given)
    check_alike(source, letters, given)  # bytes and characters of ASCII have the same ids
    with pytest.raises(UserError, match=r"encodes text differently from .*leave tokenizer= out"):
        check_alike(source, char_tokenizer(map(chr, range(9, 300))), given)
    (tmp_path / "tokenizer.json").write_text("{}")
    check_alike(source, letters, given)


def test_other_files_of_tokenizers_lie_beside_weights(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "tokenizer.model").touch()
    assert find_source("run", str(tmp_path / "hf"), "runs").tokenizer == tmp_path / "hf"
