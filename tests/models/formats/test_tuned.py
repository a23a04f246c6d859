"""What a fine-tuning has learned, in files: the real runtime computes with it as the model did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from core.errors import UserError
from core.files import sha256
from models.formats import official
from models.formats.load import read, spec_of
from models.formats.save import save
from models.formats.tuned import together
from models.formats.weights import Tuned, Weights
from models.tuning import LORA, STATE, Tuning, trained_names, tune
from tests.official_weights import VERSIONS, official_weights
from tests.oracle import Answer, Question, ask

TOKENS = torch.randint(97, (20,), generator=torch.Generator().manual_seed(3)).tolist()
LAYERS = 3
HAVE_FILES = ("rwkv5", "rwkv6", "rwkv7")
"""Versions for whose states RWKV's tools have a file."""


class Cases:
    """For each version, an adapted model and one with a learned state, and both in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights: dict[tuple[str, str], Weights] = {}
        self.logits: dict[tuple[str, str], torch.Tensor] = {}
        questions: dict[tuple[str, str], Question] = {}
        for version in VERSIONS:
            parent = self.path(version, "parent.pth")
            torch.save(official_weights(version, LAYERS), parent)
            for mode in (LORA, STATE):
                self.learn(version, mode)
            merged = self.path(version, "merged.pth")
            save(self.weights[version, LORA], merged, "official")
            split = [[len(TOKENS)]]
            questions[version, LORA] = Question(str(merged), version, TOKENS, split)
            if version in HAVE_FILES:
                states = self.path(version, "states.pth")
                save(self.weights[version, STATE], states, "state")
                question = Question(str(parent), version, TOKENS, split, states=str(states))
                questions[version, STATE] = question
            if version in ("rwkv5", "rwkv6"):
                both = self.path(version, "both.pth")
                save(self.weights[version, STATE], both, "official")
                questions[version, "both"] = Question(str(both), version, TOKENS, split)
        found = ask(list(questions.values()))
        self.answers: dict[tuple[str, str], Answer] = dict(zip(questions, found, strict=True))

    def path(self, version: str, name: str) -> Path:
        return self.folder / f"{version}-{name}"

    def learn(self, version: str, mode: str) -> None:
        """As if a run had trained: every number that it trains is another."""
        parent = self.path(version, "parent.pth")
        plain = read(parent)
        model: Any = plain.model("cpu")
        tuning = Tuning.of(mode, 8, 16.0, ())
        tune(model, tuning, seed=0)
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name in trained_names(model):
                each = model.get_parameter(name)
                each += 0.03 * torch.randn(each.shape, generator=draw)
            self.logits[version, mode] = model(torch.tensor([TOKENS]))[0][0]
        learned = {name: model.get_parameter(name).detach() for name in trained_names(model)}
        began = {"path": str(parent), "step": 0, "sha256": sha256(parent), "take": "weights"}
        tuned = Tuned(tuning, learned, "0" * 64, began)
        self.weights[version, mode] = together(plain, tuned)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return Cases(tmp_path_factory.mktemp("tuned"))


@pytest.mark.parametrize("version", VERSIONS)
def test_merged_adapters_in_the_official_runtime(cases: Cases, version: str) -> None:
    ours, (theirs,) = cases.logits[version, LORA], cases.answers[version, LORA].logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)
    model: Any = read(cases.path(version, "parent.pth")).model("cpu")
    with torch.no_grad():
        assert not torch.allclose(model(torch.tensor([TOKENS]))[0][0], theirs, atol=0.01)


@pytest.mark.parametrize("version", HAVE_FILES)
def test_a_learned_state_in_the_official_runtime(cases: Cases, version: str) -> None:
    ours = cases.logits[version, STATE]
    for kind in (STATE, "both"):
        if (version, kind) in cases.answers:
            (theirs,) = cases.answers[version, kind].logits
            torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_both_come_back_as_they_were(cases: Cases, version: str, tmp_path: Path) -> None:
    adapters, whole = tmp_path / "adapters.safetensors", tmp_path / "whole.safetensors"
    lora, state = cases.weights[version, LORA], cases.weights[version, STATE]
    save(lora, adapters, "adapter")
    save(state, whole, "safetensors")
    assert spec_of(adapters) == spec_of(whole) == lora.spec
    found = read(adapters)
    assert found.tuned is not None and lora.tuned is not None
    assert found.tuned.tuning == lora.tuned.tuning and found.tuned.parent == lora.tuned.parent
    for name, tensor in lora.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    with torch.no_grad():
        model: Any = read(whole).model("cpu")
        assert torch.equal(model(torch.tensor([TOKENS]))[0][0], cases.logits[version, STATE])
    with safe_open(adapters, framework="pt") as file:
        said = file.metadata()["crossover"]
    assert sha256(cases.path(version, "parent.pth")) in said


def test_adapters_without_their_weights_are_refused(cases: Cases, tmp_path: Path) -> None:
    parent, file = tmp_path / "parent.pth", tmp_path / "adapters.safetensors"
    lora = cases.weights["rwkv7", LORA]
    assert lora.tuned is not None and lora.tuned.parent is not None
    began = {**lora.tuned.parent, "path": str(parent)}
    save(replace(lora, tuned=replace(lora.tuned, parent=began)), file, "adapter")
    with pytest.raises(UserError, match=r"for the weights in .*parent.pth .*not there any more"):
        read(file)
    torch.save(official_weights("rwkv7", LAYERS, seed=1), parent)  # others
    with pytest.raises(UserError, match="not there any more: bring them back"):
        read(file)
    torch.save(official_weights("rwkv7", LAYERS), parent)
    if sha256(parent) == began["sha256"]:
        read(file)


@pytest.mark.parametrize(
    ("version", "mode", "format", "why"),
    [
        ("rwkv7", STATE, "official", "takes no state of rwkv7 from a file of weights"),
        ("rwkv6", STATE, "hf", "would lose the state"),
        ("rwkv4", STATE, "state", "no file for a state of rwkv4"),
        ("rwkv7", LORA, "state", "no learned state: tune=state trains one"),
        ("rwkv7", STATE, "adapter", "no adapters: tune=lora trains some"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    cases: Cases, tmp_path: Path, version: str, mode: str, format: str, why: str
) -> None:
    suffix = {"hf": "", "adapter": ".safetensors"}.get(format, ".pth")
    with pytest.raises(UserError, match=why):
        save(cases.weights[version, mode], tmp_path / f"target{suffix}", format)
    assert not [*tmp_path.iterdir()]


def test_official_files_still_refuse_what_they_hold_beside_weights(cases: Cases) -> None:
    path = cases.path("rwkv6", "both.pth")
    with pytest.raises(UserError, match="a tuned initial state"):
        official.from_tensors(path, torch.load(path))
