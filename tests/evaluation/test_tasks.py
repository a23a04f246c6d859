"""The harness's own evaluator with our models: local tasks, no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from core.errors import UserError
from data.text import TextTokenizer
from data.tokenizers import byte_tokenizer, char_tokenizer
from evaluation import tables
from evaluation import tasks as tasks_module
from evaluation.harness import HarnessModel
from evaluation.tasks import Tasks, explained
from tests.registered_models import shaken

LAMBADA = str(Path(lm_eval.__file__).parent / "tasks" / "lambada")
"""A folder of the harness's own tasks."""
CHOICES = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
num_fewshot: 2
fewshot_config: {{sampler: first_n}}
doc_to_text: "What colour has {{{{thing}}}}?"
doc_to_choice: [red, green, blue]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
WRITING = """
task: writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: generate_until
doc_to_text: "What colour has {{{{thing}}}}?"
doc_to_target: answer
generation_kwargs: {{until: ["."], max_gen_toks: 5}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of a user's."""
    place = tmp_path_factory.mktemp("tasks")
    lines = [
        {"thing": f"the {word}", "answer": at % 3} for at, word in enumerate(["sky", "sea", "sun"])
    ]
    (place / "colours.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, text in (("colours", CHOICES), ("writing", WRITING)):
        filled = text.format(data=place / "colours.jsonl", cache=place / "cache")
        (place / f"{name}.yaml").write_text(filled)
    return place


@pytest.fixture(scope="module")
def tasks(folder: Path) -> Tasks:
    return Tasks(["colours", "writing"], str(folder))


def asked(kind: str, *arguments: Any) -> Instance:
    return Instance(kind, {}, arguments, 0)


def log_likelihood(model: Any, tokenizer: TextTokenizer, before: str, text: str) -> float:
    """What the model alone says of a continuation."""
    begin = tokenizer.encode(before) or [tokenizer.end_of_text or 0]
    ids = begin + tokenizer.encode(text)
    with torch.no_grad():
        scores = model(torch.tensor([ids]))[0].log_softmax(-1)[0]
    return sum(scores[at - 1, ids[at]].item() for at in range(len(begin), len(ids)))


@pytest.mark.parametrize(("name", "context"), [("rwkv7", None), ("transformer", 64)])
def test_log_likelihoods_are_the_models_own(name: str, context: int | None) -> None:
    model, tokenizer = shaken(name, vocab=257), byte_tokenizer()
    shots = "Q: a? A: b. " * 3
    pairs = [(f"{shots}Q: {word}? A:", f" {end}") for word in "xyz" for end in ("yes", "no", "ye")]
    pairs += [("", "whole"), ("Q", "x")]
    adapter = HarnessModel(model, tokenizer, context)
    found = adapter.loglikelihood([asked("loglikelihood", *pair) for pair in pairs], True)
    expected = [log_likelihood(model, tokenizer, *pair) for pair in pairs]
    assert [value for value, _ in found] == pytest.approx(expected, abs=1e-5)
    assert adapter.reader.computed < adapter.reader.asked / 4
    rolling = adapter.loglikelihood_rolling([asked("loglikelihood_rolling", shots)], True)
    assert rolling == pytest.approx([log_likelihood(model, tokenizer, "", shots)], abs=1e-4)


def test_what_a_model_cannot_read_at_once_loses_its_beginning() -> None:
    model, tokenizer = shaken("transformer", vocab=257), byte_tokenizer()
    adapter = HarnessModel(model, tokenizer, 8)
    ((found, _),) = adapter.loglikelihood([asked("loglikelihood", "0123456789", "abc")], True)
    assert found == pytest.approx(log_likelihood(model, tokenizer, "456789", "abc"), abs=1e-5)
    with pytest.raises(UserError, match="context="):
        adapter.loglikelihood([asked("loglikelihood", "0", "x" * 20)], True)
    long = adapter.loglikelihood_rolling([asked("loglikelihood_rolling", "0123456789ab")], True)
    first = log_likelihood(model, tokenizer, "", "01234567")
    assert long == pytest.approx(
        [first + log_likelihood(model, tokenizer, "34567", "89ab")], abs=1e-4
    )


def test_a_message_names_what_cannot_be_read() -> None:
    with (
        pytest.raises(UserError, match=r"include_path=x: its tasks cannot be read \(no YAML\)"),
        explained("include_path=x: its tasks"),
    ):
        raise ValueError("no YAML")


def test_continuations_are_the_likeliest_and_end_at_stop_words() -> None:
    model, tokenizer = shaken("rwkv4", vocab=257), byte_tokenizer()
    ids = tokenizer.encode("Begin")
    with torch.no_grad():
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids]))[0][0, -1].argmax()))
    whole = tokenizer.decode(ids[5:])
    adapter = HarnessModel(model, tokenizer)
    first, second = adapter.generate_until(
        [
            asked("generate_until", "Begin", {"max_gen_toks": 6, "until": []}),
            asked("generate_until", "Begin", {"max_gen_toks": 6, "until": [whole[2:4]]}),
        ]
    )
    assert first == whole
    assert second == whole[: whole.index(whole[2:4])]


def test_a_tokenizer_without_an_end_of_text_cannot_begin_a_text() -> None:
    adapter = HarnessModel(shaken("rwkv4", vocab=3), char_tokenizer("abc"))
    with pytest.raises(UserError, match="no end-of-text"):
        adapter.loglikelihood([asked("loglikelihood", "", "abc")], True)


def test_tasks_of_a_folder(tasks: Tasks) -> None:
    model, tokenizer = shaken("rwkv7", vocab=257), byte_tokenizer()
    answers = tasks.answer(model, tokenizer, None, limit=2)
    assert set(answers["results"]) == {"colours", "writing"}
    assert set(answers["results"]["colours"]) == {"acc", "acc_stderr"}
    assert answers["examples"] == {"colours": 2, "writing": 2}
    assert answers["fewshot"] == {"colours": 2, "writing": 0}
    assert 2 * answers["tokens_read"] < answers["tokens_asked"]
    assert "colours" in tables.of_tasks(answers) and "times fewer" in tables.of_tasks(answers)


def test_lambada_from_a_file_of_the_users(tmp_path: Path) -> None:
    lines = ["the cat sat on the mat", "one two three"]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    model, tokenizer = shaken("rwkv7", vocab=257), byte_tokenizer()
    answers = Tasks(["lambada_openai"], LAMBADA).answer(model, tokenizer, None, file=str(path))
    parts = [line.rpartition(" ") for line in lines]
    mean = sum(log_likelihood(model, tokenizer, a, b + c) for a, b, c in parts) / 2
    expected = torch.tensor(-mean).exp().item()
    assert answers["results"]["lambada_openai"]["perplexity"] == pytest.approx(expected, rel=1e-4)


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = shaken("rwkv4", vocab=257), byte_tokenizer()
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "a b"}\nnonsense\n')
    lambada = Tasks(["lambada_openai"], LAMBADA)
    with pytest.raises(UserError, match=r"line 2"):
        lambada.answer(model, tokenizer, None, file=str(path))
    path.write_text('{"other": "a b"}\n')
    with pytest.raises(UserError, match=r"tasks=lambada_openai: its examples"):
        lambada.answer(model, tokenizer, None, file=str(path))
    with pytest.raises(UserError, match=r"choose one of lambada_openai, lambada_standard"):
        Tasks(["lambada"], LAMBADA).answer(model, tokenizer, None, file=str(path))
    monkeypatch.setattr(tasks_module, "TaskManager", only_lambada)  # all of them take a minute
    with pytest.raises(UserError, match=r"no such task; did you mean lambada_openai"):
        Tasks(["lambada_opena"])


def only_lambada(include_path: str | None = None, include_defaults: bool = True) -> TaskManager:
    return TaskManager(include_path=LAMBADA, include_defaults=False)
