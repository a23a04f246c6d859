"""Writing weights: all of a file or nothing, and never over something that was there."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import UserError
from models.contract import Model
from models.formats.load import load, read
from models.formats.save import save
from models.formats.tensor_files import write_safetensors
from models.formats.weights import Weights
from tests.registered_models import NAMES, shaken, some_tokens, spec_of

TARGETS = {"official": "a.pth", "hf": "a", "safetensors": "a.safetensors"}


def weights_of(name: str = "rwkv4") -> Weights:
    return Weights(spec_of(name), shaken(name).state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_every_model_lives_in_one_safetensors_file(tmp_path: Path, name: str) -> None:
    before = weights_of(name)
    save(before, tmp_path / "a.safetensors", "safetensors")
    after = read(tmp_path / "a.safetensors")
    assert after.spec == before.spec
    assert all(torch.equal(after.tensors[key], value) for key, value in before.tensors.items())
    loaded: Model = load(tmp_path / "a.safetensors")
    tokens = some_tokens(1, 9)
    expected = before.model("cpu")(tokens)[0]
    torch.testing.assert_close(loaded(tokens)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("format", TARGETS)
def test_an_existing_target_stays_unless_it_may_be_replaced(tmp_path: Path, format: str) -> None:
    target = tmp_path / TARGETS[format]
    save(weights_of(), target, format)
    before = read(target).tensors["emb.weight"].clone()
    changed = weights_of()
    changed = Weights(changed.spec, {n: t + 1 for n, t in changed.tensors.items()})
    with pytest.raises(UserError, match="exists: choose another, or overwrite=true"):
        save(changed, target, format)
    assert torch.equal(read(target).tensors["emb.weight"], before)
    save(changed, target, format, overwrite=True)
    assert torch.equal(read(target).tensors["emb.weight"], before + 1)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("entry", "told"),
    [("checkpoints/a", "it holds the folder checkpoints"), ("a.txt", "it has no config.json")],
)
def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path, entry: str, told: str) -> None:
    """It may be a run's, with all of its checkpoints, or the user's work."""
    kept = tmp_path / "run" / entry
    kept.parent.mkdir(parents=True)
    kept.touch()
    with pytest.raises(UserError, match=rf"would be replaced as a whole.*\({told}\)"):
        save(weights_of(), tmp_path / "run", "hf", overwrite=True)
    assert kept.exists()
    (tmp_path / "empty").mkdir()
    save(weights_of(), tmp_path / "empty", "hf", overwrite=True)


@pytest.mark.parametrize("format", TARGETS)
def test_a_failure_leaves_the_old_target_and_nothing_else(tmp_path: Path, format: str) -> None:
    target = tmp_path / TARGETS[format]
    save(weights_of(), target, format)
    before = read(target).tensors["emb.weight"].clone()
    missing: Any = weights_of().tensors
    del missing["ln_out.bias"]
    missing["head.weight"] = None
    with pytest.raises((KeyError, AttributeError)):
        save(Weights(spec_of("rwkv4"), missing), target, format, overwrite=True)
    assert torch.equal(read(target).tensors["emb.weight"], before)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("format", TARGETS)
def test_files_have_the_mode_of_any_new_file(tmp_path: Path, format: str) -> None:
    (tmp_path / "new").touch()
    target = tmp_path / TARGETS[format]
    save(weights_of(), target, format)
    files = [*target.iterdir()] if target.is_dir() else [target]
    assert {path.stat().st_mode for path in files} == {(tmp_path / "new").stat().st_mode}


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(weights_of(), tmp_path / f"{name}.pth", "official")
        save(weights_of(), tmp_path / f"{name}.safetensors", "safetensors")
    for suffix in ("pth", "safetensors"):
        a, b = (tmp_path / f"{name}.{suffix}" for name in "ab")
        assert a.read_bytes() == b.read_bytes()


def test_the_name_must_tell_the_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"format=official needs a name that ends in \.pth"):
        save(weights_of(), tmp_path / "a.bin", "official")
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        save(weights_of(), tmp_path / "a.pth", "safetensors")


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"a\.pth cannot be written"):
        save(weights_of(), tmp_path / "file" / "a.pth", "official")


@pytest.mark.parametrize(
    ("format", "name"), [("official", "a.pth"), ("safetensors", "a.safetensors"), ("hf", "a")]
)
def test_a_full_disk_is_one_message_and_leaves_nothing(
    tmp_path: Path, format: str, name: str
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"{name} cannot be written") as refused:
            save(weights_of(), tmp_path / name, format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_name_too_long_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        save(weights_of(), tmp_path / ("a" * 300 + ".pth"), "official")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {"name": "x"}, "unused": []}'])
def test_metadata_that_describes_no_model_is_refused(tmp_path: Path, text: str) -> None:
    write_safetensors(tmp_path / "a.safetensors", weights_of().tensors, {"crossover": text})
    with pytest.raises(UserError, match="describes no model"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("change", [{"n_layer": "three"}, {"n_embd": -4}, {"n_layr": 3}])
def test_a_description_that_builds_nothing_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    spec = spec_of("rwkv4")
    odd = replace(spec, config={**spec.config, **change})
    save(Weights(odd, weights_of().tensors), tmp_path / "a.safetensors", "safetensors")
    with pytest.raises(UserError, match=next(iter(change))):
        load(tmp_path / "a.safetensors")
