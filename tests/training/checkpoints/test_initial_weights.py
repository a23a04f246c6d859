"""Trainings that start from weights: `from=` with each `take=`."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from conf.schema import TrainConf
from core.errors import UserError
from data.tokenizers import char_tokenizer
from models.formats.crossover import write
from models.formats.load import read as read_weights
from models.formats.weights import Weights
from models.registry import build
from tests.registered_models import spec_of
from tests.training.runs import run, run_conf
from training.checkpoints.find import read, saved
from training.checkpoints.initial_weights import Initial
from training.loop.module import LanguageModel
from training.run_folder.begun import Begun, Parent
from training.run_folder.folder import RunFolder, find_place, resume_target

TOKENS = 4 * 32  # of an optimizer step


def forget(folder: RunFolder) -> None:
    """As if the run had been killed before its first save."""
    for path in (folder.summary_path, *folder.checkpoints.iterdir()):
        path.unlink()


def first_step(
    monkeypatch: pytest.MonkeyPatch, conf: TrainConf
) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Weights and state of the optimizer before the first step of a training; its summary."""
    seen: list[Any] = []
    inner = LanguageModel.training_step

    def training_step(module: LanguageModel, *args: Any) -> torch.Tensor:
        if not seen:
            model: Any = module.model
            seen.append({name: each.clone() for name, each in model.state_dict().items()})
            optimizer: Any = module.optimizers()
            seen.append(copy.deepcopy(optimizer.optimizer.state_dict()))
        return inner(module, *args)

    with monkeypatch.context() as patched:
        patched.setattr(LanguageModel, "training_step", training_step)
        summary, _ = run(conf)
    return seen[0], seen[1], summary


@pytest.mark.parametrize("take", ["weights", "weights,optimizer"])
def test_a_training_begins_with_what_was_taken(
    tmp_path: Path, corpus: Path, parent: RunFolder, monkeypatch: pytest.MonkeyPatch, take: str
) -> None:
    conf = run_conf(tmp_path, corpus, init_from=f"{parent.path}@2", take=take, optim__lr=1e-4)
    weights, optimizer, summary = first_step(monkeypatch, conf)
    content = read(saved(parent)[0])
    for name, tensor in weights.items():
        assert torch.equal(tensor, content["state_dict"][f"model.{name}"])
    kept = content["optimizer_states"][0]["state"]
    assert optimizer["state"].keys() == (kept.keys() if "optimizer" in take else set())
    for index, moments in optimizer["state"].items():
        assert torch.equal(moments["exp_avg"], kept[index]["exp_avg"])
        assert float(moments["step"]) == 2
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(1e-4 / 20)  # of its own warm-up
    assert summary["steps"] == 8
    assert summary["train_seconds"] > content["callbacks"]["Monitor"]["all_seconds"] > 0
    assert summary["tokens"] == (2 + 8) * TOKENS  # sums over the lineage
    assert summary["parent"] == {
        "path": str(saved(parent)[0]),
        "step": 2,
        "sha256": summary["parent"]["sha256"],
        "take": take,
    }
    assert summary["order_hash"] is None  # its tokens follow from no single order


def test_a_run_that_starts_again_begins_with_the_weights_too(
    tmp_path: Path, corpus: Path, parent: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"init_from": f"{parent.path}@2", "take": "weights"}
    conf = run_conf(tmp_path, corpus, resume="never", **settings)
    content = read(saved(parent)[0])
    for _ in range(2):  # the second puts the first aside
        weights, _, summary = first_step(monkeypatch, conf)
        for name, tensor in weights.items():
            assert torch.equal(tensor, content["state_dict"][f"model.{name}"])
        assert summary["parent"]["take"] == "weights" and summary["tokens"] == (2 + 8) * TOKENS


def test_everything_is_a_branch_and_one_that_changes_nothing_ends_in_the_parents_bits(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    changes: dict[str, Any] = {"trainer__max_steps": 4, "checkpoint__every_n_train_steps": 2}
    branch, _ = run(run_conf(tmp_path, corpus, init_from=f"{parent.path}@2", **changes))
    finished = parent.summary()
    assert finished is not None
    assert branch["digest"] == finished["digest"]
    assert branch["tokens"] == finished["tokens"] == 4 * TOKENS
    assert branch["parent"]["step"] == 2 and branch["parent"]["take"] == "everything"


def test_everything_on_another_corpus_of_the_same_tokenizer(
    tmp_path: Path, parent: RunFolder
) -> None:
    (tmp_path / "other.txt").write_text("quite another text, long enough for a few windows\n" * 200)
    conf = run_conf(tmp_path / "runs", tmp_path / "other.txt", init_from=str(parent.path))
    summary, _ = run(conf)
    assert summary["steps"] == 8 and summary["tokens"] == 8 * TOKENS
    assert summary["order_hash"] is None
    conf = run_conf(tmp_path / "chars", tmp_path / "other.txt", init_from=str(parent.path))
    conf.data.tokenizer = "chars"
    conf.data.cache_dir = str(tmp_path / "fresh")
    with pytest.raises(UserError, match=r"tokenizer='bytes' there, 'chars' here.*tokenizer=bytes"):
        run(conf)
    assert not (tmp_path / "fresh").exists()  # nothing was prepared for it


def test_a_damaged_source_is_told_with_its_own_way_out(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    shutil.copytree(parent.path, tmp_path / "source")
    for path in saved(RunFolder(tmp_path / "source")):
        path.write_bytes(b"x")
    for take in ("everything", "weights"):
        conf = run_conf(tmp_path, corpus, init_from=str(tmp_path / "source"), take=take)
        with pytest.raises(UserError, match="bring back a sound one") as told:
            run(conf)
        assert "resume=never" not in str(told.value)


def test_an_interrupted_start_begins_with_the_same_weights(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    """The source may have gone on meanwhile: what was written down counts."""
    source = tmp_path / "source"
    shutil.copytree(parent.path, source)
    conf = run_conf(tmp_path, corpus, init_from=str(source), take="weights", trainer__max_steps=2)
    first, folder = run(conf)
    forget(folder)
    for suffix in (".ckpt", ".json"):
        shutil.copy(
            source / f"checkpoints/step-00000002{suffix}",
            source / f"checkpoints/step-00000009{suffix}",
        )
    again, _ = run(conf)
    assert again["digest"] == first["digest"] and again["parent"] == first["parent"]
    begun = Begun.read(folder)
    assert begun is not None and begun.parent is not None
    Begun("auto", replace(begun.parent, sha256="0" * 64)).write(folder)
    forget(folder)
    with pytest.raises(UserError, match="changed since"):
        run(conf)


def test_a_run_may_be_called_as_a_step_of_another(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    shutil.copytree(parent.path, tmp_path / "b@3")
    assert find_place("from", "b@3", str(tmp_path)) == tmp_path / "b@3"
    assert resume_target("b@3", str(tmp_path)) == tmp_path / "b@3"
    step = tmp_path / "b@3/checkpoints/step-00000002.ckpt"
    assert find_place("from", "b@3@2", str(tmp_path)) == step
    assert resume_target("b@3@2", str(tmp_path)) == step


def test_a_source_that_is_gone_before_the_first_save_is_named(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    source = tmp_path / "weights.safetensors"
    write(read_weights(parent.path), source)
    conf = run_conf(tmp_path, corpus, init_from=str(source), trainer__max_steps=2)
    _, folder = run(conf)
    forget(folder)
    source.unlink()
    with pytest.raises(UserError, match="is gone, and nothing is saved yet"):
        run(conf)


def test_a_finished_training_is_finished_though_its_source_is_gone(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    source = tmp_path / "weights.safetensors"
    write(read_weights(parent.path), source)
    conf = run_conf(tmp_path, corpus, init_from=str(source), trainer__max_steps=2)
    first, _ = run(conf)
    assert first["parent"]["take"] == "weights"
    source.unlink()
    assert run(conf)[0] == first


def test_foreign_weights_give_their_own_logits_at_step_0(
    tmp_path: Path, corpus: Path, parent: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "official.pth"
    tensors = read_weights(parent.path).tensors
    torch.save({name: each.bfloat16() for name, each in tensors.items()}, source)
    conf = run_conf(tmp_path, corpus, init_from=str(source), trainer__max_steps=1)
    weights, _, summary = first_step(monkeypatch, conf)
    loaded: Any = models.load(source, dtype=torch.float32)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(weights[name], tensor)
    assert summary["tokens"] == TOKENS  # nobody knows what came before


def test_rows_are_added_and_cut_only_on_request(parent: RunFolder) -> None:
    weights = read_weights(parent.path)
    initial = Initial(weights, Parent("a", 4, "0", "weights"))
    given = weights.tensors["emb.weight"]
    for rows in (len(given) + 3, len(given) - 3):
        model: Any = build(spec_of("rwkv4", vocab_size=rows))
        before = model.emb.weight.detach().clone()
        initial.put(model)
        kept = min(rows, len(given))
        assert torch.equal(model.emb.weight[:kept], given[:kept])
        assert torch.equal(model.emb.weight[kept:], before[kept:])
        assert torch.equal(model.head.weight[:kept], weights.tensors["head.weight"][:kept])


def test_what_does_not_fit_is_refused(tmp_path: Path, corpus: Path, parent: RunFolder) -> None:
    file = tmp_path / "weights.safetensors"
    write(read_weights(parent.path), file)

    def refused(match: str, model: str = "rwkv4", **changes: Any) -> None:
        with pytest.raises(UserError, match=match):
            run(run_conf(tmp_path, corpus, **changes), model)
        assert not list(tmp_path.glob("run/checkpoints/*"))
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    refused("is another model: .*RWKV4 there, .*RWKV7 here", "rwkv7", init_from=str(file))
    refused("has a vocabulary of 257, .* one of 16", init_from=str(file), data__tokenizer="chars")
    refused("holds weights and nothing else", init_from=str(file), take="everything")
    refused("there are: 2, 4", init_from=f"{parent.path}@3")
    refused("no such run", init_from="nowhere")
    refused("give one of them", init_from=str(parent.path), resume=str(saved(parent)[0]))
    optimizer = {"take": "weights,optimizer", "optim__name": "muon"}
    refused("state of 'adamw'|state of adamw", init_from=str(parent.path), **optimizer)
    refused("take=weights begins a new", init_from=str(parent.path), optim__name="muon")
    refused("take=weights begins a new", resume=str(parent.path), optim__name="muon")
    refused("made up by the kernel", init_from="/proc/kmsg")
    refused("is no run, so it has no steps", init_from=f"{file}@3")
    file.write_bytes(file.read_bytes()[:-100])
    refused("weights.safetensors", init_from=str(file))


def test_another_tokenizer_than_the_weights_is_refused(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    """What a checkpoint recorded decides, whatever lies beside it, and that is not blamed."""
    copied = RunFolder(Path(shutil.copytree(parent.path, tmp_path / "copied")))
    letters = tmp_path / "letters.json"
    char_tokenizer(corpus.read_text()).save(letters)

    def refused(way_out: str) -> None:
        changes: dict[str, Any] = {"init_from": str(copied.checkpoints / "step-00000004.ckpt")}
        changes |= {"take": "weights", "data__tokenizer": str(letters)}
        told = "trained with another tokenizer than the corpus is prepared with: use data.tokenizer"
        with pytest.raises(UserError, match=f"^{copied.checkpoints}.* was {told}{way_out}$"):
            run(run_conf(tmp_path, corpus, **changes))
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    refused(f"={copied.tokenizer}")
    char_tokenizer("abc").save(copied.tokenizer)
    refused(" with the one it was trained with")
    copied.tokenizer.unlink()
    refused(" with the one it was trained with")


@pytest.mark.parametrize("option", ["transformer qk_norm=true", "rwkv5 ungated=true"])
def test_options_that_need_other_weights_are_refused(
    tmp_path: Path, corpus: Path, option: str
) -> None:
    plain, name = option.split()[0], option.split()[1].partition("=")[0]
    for there, here, values in ((plain, option, "None there, True"), (option, plain, "True there")):
        spec = spec_of(there, vocab_size=257)
        file = tmp_path / f"{name}.safetensors"
        write(Weights(spec, build(spec).state_dict()), file)  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=rf"has other weights: model\.{name}={values}"):
            run(run_conf(tmp_path, corpus, init_from=str(file)), here)
        file.unlink()


def test_a_schedule_that_has_decayed_is_not_begun_again(tmp_path: Path, corpus: Path) -> None:
    wsd: dict[str, Any] = {"optim__schedule": "wsd", "optim__warmup_steps": 1}
    wsd |= {"checkpoint__every_n_train_steps": 2, "optim__decay_steps": 3}
    _, trunk = run(run_conf(tmp_path, corpus, trainer__max_steps=6, **wsd))
    conf = run_conf(tmp_path / "b", corpus, init_from=f"{trunk.path}@4", **wsd)
    with pytest.raises(UserError, match=r"has begun to decay at step 3\..*\(there are: none\)"):
        run(conf)
    conf.take = "weights"
    assert run(conf)[0]["steps"] == 8


def test_start_json_of_older_versions_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    parent = {"path": "a", "step": 2, "sha256": "0"}
    folder.start.write_text(json.dumps({"resume": "a", "parent": parent}))
    begun = Begun.read(folder)
    assert begun is not None and begun.parent == Parent("a", 2, "0", "everything")
    folder.start.write_text(json.dumps({"resume": "a", "parent": {**parent, "take": "half"}}))
    with pytest.raises(UserError, match="damaged"):
        Begun.read(folder)
