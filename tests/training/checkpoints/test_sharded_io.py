"""Sharded checkpoints: two processes of the real FSDP write them, others go on from them.

Runs are forked from a server that has imported everything, as in `tests.training.children`.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _FileSystemWriter

import models
from conf.schema import TrainConf
from core.errors import UserError
from core.files import FILES, damage, described, manifest_path, seal
from models.formats.load import read as read_weights
from models.formats.sharded import REST, Shards
from tests.training.children import _main, end, run_in_child
from tests.training.ranks import folder_of, interrupted
from tests.training.runs import run_conf, write_corpus
from training.checkpoints import sharded_io
from training.checkpoints.find import newest, read, saved, step_of
from training.checkpoints.weights_source import find_source
from training.run_folder.digest import digest
from training.run_folder.folder import RunFolder, resume_target

STEPS, MIDDLE = 6, 3
SHARDS = [f"shard-0000{number}-model-00001-of-00001.safetensors" for number in (1, 2)]


def conf_of(folder: Path, corpus: Path, **changes: Any) -> TrainConf:
    settings: dict[str, Any] = {
        "trainer__max_steps": STEPS,
        "trainer__val_check_interval": STEPS,
        "trainer__strategy": "fsdp",
        "trainer__devices": 2,
        "checkpoint__every_n_train_steps": MIDDLE,
        "checkpoint__sharded": True,
        "data__batch_size": 6,
    }
    return run_conf(folder, corpus, **settings | changes)


def trained(conf: TrainConf) -> RunFolder:
    ended = run_in_child(conf)
    assert ended.status == 0 and "Warning" not in ended.err, ended.err
    return RunFolder(folder_of(conf))


def digest_of(folder: RunFolder) -> str:
    summary = folder.summary()
    assert summary is not None and summary["steps"] == STEPS
    return str(summary["digest"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def gathered(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    conf = conf_of(tmp_path_factory.mktemp("gathered"), corpus, checkpoint__sharded=False)
    return trained(conf)


@pytest.fixture(scope="module")
def sharded(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(conf_of(tmp_path_factory.mktemp("sharded"), corpus))


def test_the_parts_are_those_of_the_one_file(gathered: RunFolder, sharded: RunFolder) -> None:
    assert digest_of(sharded) == digest_of(gathered)
    for parts, file in zip(saved(sharded), saved(gathered), strict=True):
        assert parts.is_dir() and damage(parts) is None
        assert {one.name for one in parts.iterdir()} == {REST, FILES, *SHARDS}
        ours, theirs = (read_weights(each).tensors for each in (parts, file))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
        whole = 3 * sum(one.numel() * 4 for one in theirs.values())
        for name in SHARDS:  # none holds what another has
            assert 0.3 * whole < (parts / name).stat().st_size < 0.7 * whole
        assert (parts / REST).stat().st_size < 0.3 * whole
        assert digest(read(parts)) == digest(read(parts, shares=True)) == digest(read(file))


def go_on(whole: RunFolder, conf: TrainConf) -> str:
    """The digest in which a run ends that goes on from another's save in the middle."""
    interrupted(whole, RunFolder(folder_of(conf)), MIDDLE)
    return digest_of(trained(conf))


@pytest.mark.parametrize("strategy", ["fsdp", "auto"])
def test_one_process_goes_on_as_from_one_file(
    tmp_path: Path, corpus: Path, gathered: RunFolder, sharded: RunFolder, strategy: str
) -> None:
    digests = []
    for name, whole in (("sharded", sharded), ("gathered", gathered)):
        conf = conf_of(tmp_path / name, corpus, trainer__devices=1, trainer__strategy=strategy)
        conf.checkpoint.sharded = strategy == "fsdp" and whole is gathered  # it may change
        digests.append(go_on(whole, conf))
        assert saved(RunFolder(folder_of(conf)))[-1].is_dir() == conf.checkpoint.sharded
    assert digests[0] == digests[1]


def test_three_processes_go_on(tmp_path: Path, corpus: Path, sharded: RunFolder) -> None:
    conf = conf_of(tmp_path, corpus, trainer__devices=3)
    go_on(sharded, conf)
    (mine, other) = (folder.summary() for folder in (RunFolder(folder_of(conf)), sharded))
    assert mine is not None and other is not None
    assert mine["val_loss"] == pytest.approx(other["val_loss"], rel=1e-5)
    assert len([*saved(RunFolder(folder_of(conf)))[-1].glob("*.safetensors")]) == 3


def dying(conf: TrainConf, log: str) -> None:
    """The run, killed at its second save, when all have written their files."""
    real, saves = sharded_io.described, []

    def described_or_dead(path: Path) -> dict[str, Any]:
        saves.append(path)
        if path.name == REST and len(saves) == 4:  # a shard and the rest of each save
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path)

    setattr(sharded_io, "described", described_or_dead)  # noqa: B010 - mypy allows no other way
    _main(conf, "rwkv4", (), log, 0, {}, None)


def test_killed_between_the_files_of_a_save(
    tmp_path: Path, corpus: Path, sharded: RunFolder
) -> None:
    conf = conf_of(tmp_path, corpus, checkpoint__keep="last:1")
    folder, log = RunFolder(folder_of(conf)), tmp_path / "log.txt"
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=dying, args=(conf, str(log)))
    process.start()
    assert end(process, log).status == -signal.SIGKILL, log.read_text()
    assert [step_of(path) for path in saved(folder)] == [MIDDLE]
    (aside,) = folder.checkpoints.glob(".*.new")
    assert {path.name for path in aside.iterdir()} == {*SHARDS, REST}
    assert trained(conf) == folder
    assert digest_of(folder) == digest_of(sharded)
    assert [path.name for path in sorted(folder.checkpoints.iterdir())] == [
        "step-00000006.ckpt",
        "step-00000006.json",
    ]


def failing(conf: TrainConf, log: str) -> None:
    """The run; process 1 finds the disk full at the second save."""
    honest, saves = _FileSystemWriter._write_data, []

    def write(self: Any, planner: Any, queue: Any) -> Any:
        saves.append(queue)
        if torch.distributed.get_rank() == 1 and len(saves) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "a shard")
        return honest(self, planner, queue)

    setattr(_FileSystemWriter, "_write_data", write)  # noqa: B010 - mypy allows no other way
    _main(conf, "rwkv4", (), log, 0, {}, None)


def test_a_full_disk_under_any_process_is_one_message(tmp_path: Path, corpus: Path) -> None:
    conf, log = conf_of(tmp_path, corpus), tmp_path / "log.txt"
    process = multiprocessing.get_context("forkserver").Process(
        target=failing, args=(conf, str(log))
    )
    process.start()
    status, said = end(process, log)
    assert status == 1 and "Traceback" not in said, said
    assert "step-00000006.ckpt cannot be written: [Errno 28] No space left" in said
    folder = RunFolder(folder_of(conf))
    assert [step_of(path) for path in saved(folder)] == [MIDDLE]
    assert not [*folder.checkpoints.glob(".*.new")]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [SHARDS[0], REST, FILES])
@pytest.mark.parametrize("spoil", [cut, flip, Path.unlink])
def test_damage_of_any_file_is_noticed(
    tmp_path: Path, sharded: RunFolder, name: str, spoil: Any
) -> None:
    shutil.copytree(sharded.path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    before, last = saved(folder)
    spoil(last / name)
    assert damage(last) is not None
    assert newest(folder) == before
    with pytest.raises(UserError):
        models.load(last)


def test_what_is_no_part_of_it_is_damage(tmp_path: Path, sharded: RunFolder) -> None:
    shutil.copytree(sharded.path, tmp_path / "run")
    last = saved(RunFolder(tmp_path / "run"))[-1]
    (last / "shard-00003-model-00001-of-00001.safetensors").write_bytes(b"")
    problem = damage(last)
    assert problem is not None and problem.endswith("is none of its files")


def test_shards_that_do_not_fill_their_tensors_are_refused(
    tmp_path: Path, sharded: RunFolder
) -> None:
    """With a right manifest."""
    shutil.copytree(sharded.path, tmp_path / "run")
    last = saved(RunFolder(tmp_path / "run"))[-1]
    (last / SHARDS[0]).unlink()
    aside = last.rename(last.with_name("aside"))
    (aside / FILES).unlink()
    seal(last, aside, {path.name: described(path) for path in aside.iterdir()})
    assert damage(last) is None
    for read_it in (models.load, read, Shards):
        with pytest.raises(UserError, match="is not there whole"):
            read_it(last)


def test_it_counts_as_one_checkpoint(sharded: RunFolder) -> None:
    summary = json.loads(sharded.summary_path.read_text())
    last = saved(sharded)[-1]
    assert summary["checkpoint_sha256"] == json.loads(manifest_path(last).read_text())["sha256"]
    assert models.load(sharded.path).config == models.load(last).config
    for name in (str(last), f"{sharded.path}@{STEPS}"):
        assert resume_target(name, "nowhere") == last
        assert find_source("from", name, "nowhere").tokenizer == sharded.tokenizer
