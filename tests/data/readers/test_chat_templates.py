"""A tokenizer's own template, against the package `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from conf.schema import DataConf
from core.errors import UserError
from data import tokenizers
from data.readers.chat_templates import Jinja, Turn, template_file, template_of
from data.readers.shapes import BadRecord

TURNS = [
    Turn("system", "Be brief & <kind>."),
    Turn("user", "Hello ü"),
    Turn("assistant", "Hi."),
    Turn("user", "More?"),
    Turn("assistant", "No.\n"),
]
# As those of ChatML's models are, with the marks by which transformers finds what is learned.
MARKED = """{{ bos_token }}{% for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('no ' + message['role']) }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\n' }}
    {%- if message['role'] == 'assistant' %}
        {% generation %}{{ message['content'] | trim + '<|im_end|>' }}{% endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
NAMES = ("<s>", "<|im_start|>", "<|im_end|>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = Tokenizer.from_str(tokenizers.byte_tokenizer().definition)
    tokenizer.add_special_tokens([*NAMES])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config(tmp_path, MARKED)
    return tmp_path


def config(folder: Path, template: Any) -> None:
    names = {str(i): {"content": name, "special": True} for i, name in enumerate(NAMES)}
    words = {"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>"}
    content = {"chat_template": template, "added_tokens_decoder": names, **words}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


def official(folder: Path) -> Any:
    made = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="<|im_end|>"
    )
    made.chat_template = MARKED
    return made


def test_it_writes_and_learns_what_transformers_does(folder: Path) -> None:
    spans = Jinja(folder / "tokenizer.json").spans(TURNS)
    messages = [{"role": turn.role, "content": turn.text} for turn in TURNS]
    theirs = official(folder)
    assert "".join(span.text for span in spans) == theirs.apply_chat_template(
        messages, tokenize=False
    )
    encoded = theirs.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids: list[int] = []
    mask: list[int] = []
    for span in spans:
        part = theirs.encode(span.text, add_special_tokens=False)
        assert span.special == (span.text in NAMES)
        ids += part
        mask += [int(span.learned)] * len(part)
    assert ids == encoded["input_ids"]
    assert mask == encoded["assistant_masks"]


@pytest.mark.parametrize("decoder", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_special_tokens_are_those_of_the_tokenizer(folder: Path, decoder: bool) -> None:
    """Whether the configuration repeats them, as it did before transformers 5, or does not."""
    whole = Jinja(folder).spans(TURNS)
    assert {span.text for span in whole if span.special} == {*NAMES}
    written = folder / "written"
    official(folder).save_pretrained(written)
    config = json.loads((written / "tokenizer_config.json").read_text())
    assert "added_tokens_decoder" not in config
    assert Jinja(written).spans(TURNS) == Jinja(written / "tokenizer.json").spans(TURNS) == whole
    (written / "tokenizer.json").rename(written / "other.json")
    assert {span.text for span in Jinja(written).spans(TURNS) if span.special} == {
        "<s>",
        "<|im_end|>",
    }
    assert Jinja(written / "other.json").spans(TURNS) == whole
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more: Any = ["<|im_start|>"] if decoder else {"start": {"content": "<|im_start|>"}}
        (written / "tokenizer_config.json").write_text(json.dumps(config | {key: more}))
        assert Jinja(written).spans(TURNS) == whole


def test_a_file_goes_before_the_configuration_as_in_transformers(folder: Path) -> None:
    official(folder).save_pretrained(folder)
    words = json.loads((folder / "tokenizer_config.json").read_text())
    words["chat_template"] = "other"
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.chat_template == MARKED
    messages = [{"role": turn.role, "content": turn.text} for turn in TURNS]
    ours = "".join(span.text for span in Jinja(folder).spans(TURNS))
    assert ours == theirs.apply_chat_template(messages, tokenize=False)


def test_a_template_in_a_file_of_its_own_or_among_others(folder: Path) -> None:
    whole = Jinja(folder).spans(TURNS)
    config(folder, [{"name": "tools", "template": "x"}, {"name": "default", "template": MARKED}])
    assert Jinja(folder / "tokenizer.json").spans(TURNS) == whole
    config(folder, None)
    (folder / "chat_template.jinja").write_text(MARKED)
    assert Jinja(folder / "tokenizer.json").spans(TURNS) == whole


def conf(folder: Path) -> DataConf:
    return DataConf(corpus="jsonl", chat="tokenizer", tokenizer=str(folder / "tokenizer.json"))


def test_another_template_is_another_corpus(folder: Path) -> None:
    before = template_file(conf(folder))
    config(folder, MARKED + " ")
    assert before and template_file(conf(folder)) != before
    assert template_file(DataConf(corpus="jsonl", chat="rwkv")) == b""


@pytest.mark.parametrize("template", ["{% for %}", "{{ 'a' ", "{% generation %}"])
def test_a_template_that_is_none_is_refused(folder: Path, template: str) -> None:
    config(folder, template)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: its chat template is not valid"):
        template_of(conf(folder))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ ().__class__.__mro__ }}{{ messages.__class__.__base__.__subclasses__() }}", "fails"),
        ("{{ raise_exception('only two turns') }}", "fails: only two turns"),
        ("{{ 1 / 0 }}", "fails: division"),
        ("{{ strftime_now('%d') }}", "fails: 'strftime_now' is undefined"),
        ("{{ messages | length }}", "writes a turn otherwise"),
    ],
)
def test_a_template_that_cannot_write_a_conversation(folder: Path, template: str, why: str) -> None:
    config(folder, template)
    with pytest.raises(BadRecord, match=why):
        template_of(conf(folder)).spans(TURNS)


def test_without_a_template_the_others_are_named(folder: Path) -> None:
    config(folder, None)
    with pytest.raises(UserError, match=r"no chat template beside .* data\.chat=rwkv or chatml"):
        template_of(conf(folder))
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"data.chat=tokenizer: .*tokenizer_config.json"):
        template_of(conf(folder))


ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    "template", [pytest.param(ENDLESS, marks=pytest.mark.slow), "{{ 'a' * 9999999999 }}"]
)
def test_a_template_that_goes_wild_is_one_message(folder: Path, template: str) -> None:
    config(folder, template)
    with pytest.raises(UserError, match="its chat template takes more than 5 s, or 1 GiB"):
        Jinja(folder / "tokenizer.json").spans(TURNS)


@pytest.mark.parametrize("templates", [["x", 5], [{"name": "default", "template": 7}], [None]])
def test_a_list_without_a_template(folder: Path, templates: list[object]) -> None:
    config(folder, templates)
    with pytest.raises(UserError, match="there is no chat template beside the tokenizer"):
        Jinja(folder / "tokenizer.json")
