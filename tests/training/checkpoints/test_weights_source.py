"""Where weights come from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import models
from core.errors import UserError
from core.files import manifest_path, write_manifest
from data.tokenizers import byte_tokenizer, char_tokenizer
from tests.training.runs import run, run_conf
from training.checkpoints.find import saved
from training.checkpoints.weights_source import Source, check_alike, check_tokenizer, find_source
from training.run_folder.folder import RunFolder


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
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "link.pth").symlink_to(tmp_path / "gone.pth")
    for name, kind in (("pipe", "a pipe, a device or a socket"), ("link", "a link that leads now")):
        with pytest.raises(UserError, match=rf"{name}\.pth' is {kind}"):
            find_source("from", str(tmp_path / f"{name}.pth"), str(tmp_path))


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


def put(theirs: RunFolder, ours: Path) -> Path:
    """The newest checkpoint of a run, copied into the folder of another."""
    (newest,) = saved(theirs)[-1:]
    for path in (newest, manifest_path(newest)):
        shutil.copy(path, ours / "checkpoints")
    return ours / "checkpoints" / newest.name


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optim__lr": 2e-3}, r"optim\.lr=0\.002 there, 0\.001 here"),
        ({"init_from": "{parent}", "take": "weights"}, "init_from=.* there, None here"),
        ({"seed": 7}, "seed=7 there, 0 here"),
        ({"data__paths": ["{other}"]}, "another corpus"),
    ],
)
def test_a_run_is_no_checkpoint_of_another_run(
    tmp_path: Path, corpus: Path, parent: RunFolder, changes: dict[str, Any], told: str
) -> None:
    (tmp_path / "other.txt").write_text("quite another text, long enough for a few windows\n" * 200)
    places = {"parent": parent.path, "other": tmp_path / "other.txt"}
    if "data__paths" in changes:
        changes = {"data__paths": [changes["data__paths"][0].format(**places)]}
    elif "init_from" in changes:
        changes = changes | {"init_from": changes["init_from"].format(**places)}
    _, theirs = run(run_conf(tmp_path / "theirs", corpus, **changes))
    ours = shutil.copytree(parent.path, tmp_path / "ours")
    assert find_source("run", str(ours), "x").weights.name == "step-00000004.ckpt"
    path = put(theirs, ours)
    for key, name in (("run", str(ours)), ("source", f"{ours}@8"), ("from", str(ours))):
        with pytest.raises(UserError, match=f"^{key}: checkpoint .* is of another run .*{told}"):
            find_source(key, name, "x")
    assert find_source("run", f"{ours}@4", "x").weights.name == "step-00000004.ckpt"
    assert find_source("run", str(path), "x").weights == path  # named itself
    (ours / "config.yaml").unlink()  # what the folder does not say is not asked
    assert find_source("run", str(ours), "x").weights == path


def test_a_run_of_another_model_has_no_checkpoint_here(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    ours = shutil.copytree(parent.path, tmp_path / "ours")
    config = yaml.safe_load((ours / "config.yaml").read_text())
    config["model"]["config"]["n_layer"] += 1
    (ours / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"model\.config\.n_layer=\d there, \d here"):
        find_source("run", str(ours), "x")


def test_runs_that_began_elsewhere_or_went_on_are_their_own(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    branch: dict[str, Any] = {"init_from": f"{parent.path}@2", "optim__lr": 1e-4}
    for name, changes in {
        "branch": branch,
        "weights": branch | {"take": "weights"},
        "longer": {"trainer__max_steps": 4},
    }.items():
        _, folder = run(run_conf(tmp_path / name, corpus, **changes))
        if name == "longer":
            run(run_conf(tmp_path / name, corpus))
        moved = folder.path.rename(tmp_path / f"moved-{name}")
        for place in (moved, f"{moved}@4"):
            assert find_source("run", str(place), "x").weights.parent.parent == moved
    # A branch of its own checkpoint, of which nothing is saved yet.
    ours = shutil.copytree(parent.path, tmp_path / "run")
    run(run_conf(tmp_path, corpus, resume=f"{ours}@2", trainer__max_steps=4))
    for path in (each for each in saved(RunFolder(ours)) if each.name == "step-00000004.ckpt"):
        path.unlink()
    assert find_source("run", str(ours), "x").weights.name == "step-00000002.ckpt"
