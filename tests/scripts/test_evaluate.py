"""`scripts/evaluate.py` on a run, on files, and with words that are wrong."""

from __future__ import annotations

import importlib.util
import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from conf.schema import DataConf, EvaluateConf
from data.encoding import NOT_LEARNED
from scripts.cli import cross_checks
from scripts.evaluate import read_documents
from tests.scripts.commands import run_script

Capture = pytest.CaptureFixture[str]
TEXT = "".join(f"{word} fish swims in the {word} sea.\n" for word in ("red", "blue", "old") * 40)


def test_a_run_and_its_weights_as_a_file(capfd: Capture, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(TEXT[::-1])
    text = ("data=text", f"data.paths=[{tmp_path}/a.txt,{tmp_path}/b.txt]", "data.val_fraction=0.5")
    here = f"runs_dir={tmp_path}"
    words = (
        "model=transformer", "model.size=tiny", "name=first", f"data.cache_dir={tmp_path}/cache",
        "data.tokenizer=bytes", "data.length=32", "data.batch_size=2", "trainer.max_steps=2",
        "training.val_windows=1", "wandb.mode=disabled", "trainer.enable_progress_bar=false",
    )  # fmt: skip
    assert run_script(capfd, "train", *words, *text, here).status == 0
    done = run_script(capfd, "evaluate", "run=first", *text, here, "part=val")
    assert done.status == 0, done.err
    assert "1 document," in done.out and "at most 32 tokens of context" in done.out
    found = json.loads((tmp_path / "first" / "evaluation.json").read_text())
    assert found["text"]["bytes"] == found["text"]["tokens"] == len(TEXT)
    assert found["text"]["context"] == 32  # that of its training
    assert found["averaged"] is False
    assert f"loss {found['text']['loss']:.4f}" in done.out
    (tmp_path / "first" / "evaluation.json").unlink()

    target, out = f"{tmp_path}/first.safetensors", tmp_path / "here"
    convert = ("source=first", f"target={target}", "format=safetensors")
    assert run_script(capfd, "convert", *convert, here).status == 0
    file = (f"run={target}", f"tokenizer={tmp_path}/first/tokenizer.json", here)
    both = run_script(capfd, "evaluate", *file, *text, "context=32", f"out={out}")
    assert both.status == 0, both.err
    all_of_it = json.loads((out / "evaluation.json").read_text())["text"]
    assert all_of_it["documents"] == 2 and all_of_it["tokens"] == 2 * len(TEXT)
    shown = run_script(capfd, "evaluate", *file, *text, "part=val", "context=32")
    assert f"loss {found['text']['loss']:.4f}" in shown.out and "out=FOLDER" in shown.out
    assert not list(tmp_path.rglob("evaluation.json"))[1:]


def test_how_far_back_a_run_remembers(capfd: Capture, tmp_path: Path) -> None:
    here = (f"runs_dir={tmp_path}", "accelerator=cpu")
    words = (
        "model=rwkv7", "model.size=mini", "name=tracks", "data=parity", "data.length=16",
        "data.batch_size=2", "trainer.max_steps=1", "wandb.mode=disabled",
        "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", f"runs_dir={tmp_path}",
    )  # fmt: skip
    assert run_script(capfd, "train", *words).status == 0
    done = run_script(capfd, "evaluate", "run=tracks", "memory=64", *here)
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "tracks" / "evaluation.json").read_text())["memory"]
    assert found["window"] == 16 and found["layers"][0]["eigenvalues"]["negative"] >= 0
    assert "half-life of decays" in done.out
    assert run_script(capfd, "evaluate", "run=tracks", "memory=7", *here).status == 2
    target = f"{tmp_path}/tracks.safetensors"
    convert = ("source=tracks", f"target={target}", "format=safetensors", f"runs_dir={tmp_path}")
    assert run_script(capfd, "convert", *convert).status == 0
    file = (f"run={target}", f"tokenizer={tmp_path}/tracks/tokenizer.json", *here)
    alone = run_script(capfd, "evaluate", *file, "memory=16")
    assert alone.status == 2 and "needs texts to read: give data= too" in alone.err


def test_an_encoder_decoder_is_asked_and_not_read_texts(capfd: Capture, tmp_path: Path) -> None:
    here = f"runs_dir={tmp_path}"
    words = (
        "model=seq2seq", "model.size=tiny", "name=first", "data=reversal", "data.length=12",
        "data.task.fewest=2", "data.batch_size=2", "trainer.max_steps=2", "wandb.mode=disabled",
        "training.val_windows=1", "trainer.enable_progress_bar=false",
    )  # fmt: skip
    done = run_script(capfd, "train", *words, here)
    assert done.status == 0, done.err
    asked = run_script(capfd, "generate", "run=first", "prompt=abc|", "tokens=3", "beam=4", here)
    assert asked.status == 0, asked.err
    assert asked.out.startswith("abc|") and len(asked.out) == len("abc|") + 3 + 1
    one, greedy = (
        run_script(capfd, "generate", "run=first", "prompt=abc|", "tokens=3", word, here).out
        for word in ("beam=1", "temperature=0")
    )
    assert one == greedy
    refused = run_script(capfd, "generate", "run=first", "prompt=abc", here)
    assert refused.status == 2 and "token 27, and the prompt has none" in refused.err
    (tmp_path / "a.txt").write_text("abc|cba")
    text = ("data=text", f"data.paths=[{tmp_path}/a.txt]")
    for question in (text, ("memory=16",)):
        refused = run_script(capfd, "evaluate", "run=first", *question, here)
        assert refused.status == 2 and "reads a source, a separator and a target" in refused.err
    assert not list(tmp_path.rglob("evaluation.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to evaluate on"),
        (("memory=64", "dtype=int8"), "memory= needs gradients"),
        (("data=text",), "data=text needs data.paths"),
        (("part=val", "tasks=x"), "part=val is about the documents"),
        (("limit=3", "data=stdlib"), "limit=3 is about tasks"),
        (("data=stdlib", "data.length=64"), "the context is context="),
        (("data=stdlib", "data.cache_dir=there"), "texts are read, and nothing is prepared"),
        (("data=copy",), "data=copy makes its sequences while it is trained on: give texts"),
        (("data=stdlib", "data.length_warmup=9"), "changes nothing about an evaluation"),
        (("tasks=[a,b]", "tasks_file=none.jsonl"), "is read by one task"),
        (("tasks=a", "tasks_file=none.jsonl"), "no such file"),
        (("tasks=a", "include_path=none"), "no such folder"),
        (("data=stdlib", "run=nothing"), "no such run"),
    ],
)
def test_wrong_words_are_refused(
    capfd: Capture, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    run = () if any(word.startswith("run=") for word in words) else (f"run={tmp_path}",)
    done = run_script(capfd, "evaluate", *run, *words)
    assert done.status == 2 and message in done.err, done.err


def test_without_the_harness_one_message(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name == "lm_eval" else importlib.util.find_spec(name)

    monkeypatch.setattr(cross_checks, "find_spec", find)
    done = run_script(capfd, "evaluate", "run=.", "tasks=lambada_openai")
    assert done.status == 2 and done.err.count("error:") == 1
    assert "pip install -e '.[eval]'" in done.err


def test_the_texts_of_conversations_come_with_what_is_learned_of_them(tmp_path: Path) -> None:
    rows = [{"instruction": f"q{i}", "output": f"a{i} é"} for i in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    conf = DataConf(
        corpus="jsonl", paths=[f"{tmp_path}/a.jsonl"], chat="rwkv", val_fraction=0.5,
        cache_dir=f"{tmp_path}/cache",
    )  # fmt: skip

    def learned(part: str) -> list[str]:
        documents = read_documents(conf, part)
        return sorted(text for one in documents for text, _, mark in one if not mark & NOT_LEARNED)

    assert learned("all") == [f" a{i} é\n\n" for i in range(9)]
    assert sorted(learned("train") + learned("val")) == learned("all") and learned("val")


def test_a_chat_template_is_that_of_the_tokenizer_that_is_named(tmp_path: Path) -> None:
    data = DataConf(corpus="jsonl", paths=["a"], tokenizer="folder")
    conf = EvaluateConf(data=data)
    assert any("give tokenizer=PATH" in each for each in cross_checks._evaluate(conf))
    data.chat = "tokenizer"
    assert not any("give tokenizer=PATH" in each for each in cross_checks._evaluate(conf))
