"""What a chat template does to the process that runs it, it does to no other."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from data.readers.shapes import BadRecord
from data.readers.template_sandbox import TemplateProcess, environment, written

PATH = Path("tokenizer_config.json")
PLAIN = "{{ bos }}{% for one in messages %}{{ one.role }}: {{ one.content }}\n{% endfor %}{{ ask }}"
ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
CHOOSY = f"""{{% set said = messages[0].content %}}
{{%- if said == 'loop' %}}{ENDLESS}{{% endif %}}
{{%- if said == 'grow' %}}{{{{ said[:1] * (2 ** 31) }}}}{{% endif %}}
{{%- if said == 'much' %}}{{{{ said[:1] * (2 ** 27) }}}}{{% endif %}}
{{%- if said == 'fail' %}}{{{{ raise_exception('not so') }}}}{{% endif %}}
{{{{- said }}}}"""


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_it_writes_what_is_written_here() -> None:
    process = TemplateProcess(PATH, PLAIN, {"bos": "<s>"})
    here = environment().from_string(PLAIN)
    for text in ("Hello ü", "two\nlines", "\ud800", "x" * 100_000):
        for asks in (True, False):
            expected = written(PATH, here, says(text), asks, {"bos": "<s>"})
            assert process.write(says(text), asks) == expected


def test_what_goes_wild_for_some_messages_is_one_message() -> None:
    process = TemplateProcess(PATH, CHOOSY, {}, seconds=1)
    assert process.write(says("hi"), True) == "hi"
    for text, why in {
        "loop": r"the chat template of tokenizer_config.json takes more than 1 s, or 1 GiB, for",
        "grow": "the chat template of tokenizer_config.json (needs more memory|takes more than)",
        "much": "the chat template of tokenizer_config.json (writes 134,217,|needs more|takes)",
        "fail": "the chat template of tokenizer_config.json fails: not so",
    }.items():
        with pytest.raises(BadRecord, match=why):
            process.write(says(text), True)
        assert process.write(says("hi"), True) == "hi"


def test_a_process_that_has_ended_is_replaced() -> None:
    process = TemplateProcess(PATH, PLAIN, {})
    first = process.write(says("hi"), True)
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGKILL)
    process._process.wait()
    assert process.write(says("hi"), True) == first
    process.close()
    assert process.write(says("hi"), True) == first


def test_a_template_that_cannot_be_translated_is_told() -> None:
    process = TemplateProcess(PATH, "{{ 'a' ", {})
    for _ in range(2):
        with pytest.raises(BadRecord, match="its chat template is not valid"):
            process.write(says("hi"), True)
