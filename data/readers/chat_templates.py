"""How a conversation is written: RWKV World's words, ChatML, or the template of a tokenizer.

What the assistant says is learned, with the end of its turn; everything else is only read.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

from conf.schema import DataConf
from core.errors import UserError, shown
from core.parsing import Missing, Unreadable, read_object, read_text
from core.processes import command_of, die_with_parent
from data.readers.shapes import BadRecord
from data.tokenizer_files import LARGEST

ANSWERS = "assistant"
"""The role whose turns are learned."""
CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
"""Files beside a tokenizer that may hold its template."""
_RWKV = {"system": "System", "user": "User", ANSWERS: "Assistant"}
_MOST = 16 << 20  # bytes of a file that holds a template
_SECONDS, _MEMORY = 5, 1 << 30  # of processor time, and bytes, that a few words may take
_STARVED = 120.0  # seconds, where other processes have the processor
_TRIALS = (
    (("user", "Hello."), (ANSWERS, "Hi.")),
    (("system", "Be brief."), *(("user", "More?"), (ANSWERS, "No.")) * 2),
)


class Turn(NamedTuple):
    """What somebody says."""

    role: str
    text: str
    learned: bool = True
    """Whether what the assistant says here is learned."""


class Span(NamedTuple):
    """A stretch of what is written."""

    text: str
    learned: bool
    special: bool = False
    """Whether it is the name of a special token."""


class Template(Protocol):
    """Writes conversations."""

    def spans(self, turns: Sequence[Turn]) -> Sequence[Span]:
        """All of a conversation, in order. Raises `BadRecord` for one that it cannot write."""
        ...

    def question(self, turns: Sequence[Turn]) -> Sequence[Span]:
        """A conversation up to where the assistant's next words begin, for a model to go on."""
        ...

    @property
    def ends(self) -> Sequence[str]:
        """What the assistant's words end in: names of special tokens, or texts."""
        ...


def template_of(conf: DataConf) -> Template:
    """The template that `data.chat` names. Raises `UserError` if the tokenizer has none."""
    return named(conf.chat, Path(conf.tokenizer))


def named(chat: str, tokenizer: Path) -> Template:
    """The template `rwkv`, `chatml`, or `tokenizer`: what lies beside it, or `UserError`."""
    if chat == "rwkv":
        return Rwkv()
    return ChatML() if chat == "chatml" else Jinja(tokenizer)


class Rwkv:
    """RWKV World's: `User: ...`, a blank line, `Assistant: ...`, a blank line.

    A blank line ends a turn, so what is asked must have none; answers are left as they are.
    """

    def spans(self, turns: Sequence[Turn]) -> list[Span]:
        spans = []
        for turn in turns:
            if turn.role not in _RWKV:
                raise BadRecord(
                    f"data.chat=rwkv has no word for {shown(turn.role)}, only for "
                    f"{', '.join(_RWKV)}"
                )
            text, name = turn.text.replace("\r\n", "\n").strip(), _RWKV[turn.role]
            if turn.role == ANSWERS:
                spans += [Span(f"{name}:", False), Span(f" {text}\n\n", turn.learned)]
            else:
                text = re.sub(r"\n{2,}", "\n", text)
                spans.append(Span(f"{name}: {text}\n\n", False))
        return spans

    def question(self, turns: Sequence[Turn]) -> list[Span]:
        return [*self.spans(turns), Span(f"{_RWKV[ANSWERS]}:", False)]

    @property
    def ends(self) -> tuple[str, ...]:
        return (f"\n\n{_RWKV['user']}:",)


class ChatML:
    """`<|im_start|>user`, the text, `<|im_end|>`: a turn each."""

    def spans(self, turns: Sequence[Turn]) -> list[Span]:
        spans = []
        for turn in turns:
            learned = turn.role == ANSWERS and turn.learned
            spans += [
                Span("<|im_start|>", False, True),
                Span(f"{turn.role}\n", False),
                Span(turn.text, learned),
                Span("<|im_end|>", learned, True),
                Span("\n", False),
            ]
        return spans

    def question(self, turns: Sequence[Turn]) -> list[Span]:
        start = Span("<|im_start|>", False, True)
        return [*self.spans(turns), start, Span(f"{ANSWERS}\n", False)]

    @property
    def ends(self) -> tuple[str, ...]:
        return ("<|im_end|>",)


class Jinja:
    """The template beside a `tokenizer.json`, in the language of Hugging Face's `transformers`.

    It is run in jinja2's sandbox. What it adds for a turn of the assistant, after its own prompt
    for one, is learned.
    """

    def __init__(self, tokenizer: Path) -> None:
        """Raises `UserError` if there is none, or it is not valid."""
        self._path, self._text, self._words, names = _read(tokenizer)
        with self._told():
            _environment().parse(self._text)
        by_length = sorted(names, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, by_length)) if names else r"(?!)")

    def spans(self, turns: Sequence[Turn]) -> list[Span]:
        pieces, done = [], ""
        for number, turn in enumerate(turns):
            if turn.role == ANSWERS:
                for upto, asks in ((number, True), (number + 1, False)):
                    written = self._written(turns[:upto], asks)
                    pieces.append((self._added(written, done), turn.learned and not asks))
                    done = written
        pieces.append((self._added(self._written(turns, False), done), False))
        return [span for text, learned in pieces for span in self._parted(text, learned)]

    def question(self, turns: Sequence[Turn]) -> list[Span]:
        return [span for span in self._parted(self._written(turns, True), False) if span.text]

    @property
    def ends(self) -> tuple[str, ...]:
        return tuple(self._words[name] for name in ("eos_token",) if self._words.get(name))

    @cached_property
    def _template(self) -> Any:
        """The template, after a trial: to translate it computes what is constant in it."""
        _try(self._path, self._text, self._words)
        with self._told():
            return _environment().from_string(self._text)

    @contextmanager
    def _told(self) -> Iterator[None]:
        from jinja2 import TemplateSyntaxError

        try:
            yield
        except (TemplateSyntaxError, RecursionError) as error:
            raise UserError(f"{self._path}: its chat template is not valid ({error})") from None

    def _written(self, turns: Sequence[Turn], asks: bool) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        template = self._template
        try:
            return template.render(messages=messages, add_generation_prompt=asks, **self._words)
        except Exception as error:  # whatever a template may raise: it is somebody's program
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BadRecord(f"the chat template of {self._path} fails: {reason}") from None

    def _added(self, written: str, done: str) -> str:
        if not written.startswith(done):
            raise BadRecord(
                f"the chat template of {self._path} writes a turn otherwise once another follows, "
                "so what is learned cannot be told apart; use data.chat=chatml or rwkv"
            )
        return written[len(done) :]

    def _parted(self, text: str, learned: bool) -> Iterator[Span]:
        """The text and the special tokens in it. Space after the last of them is not learned."""
        place = 0
        for match in self._names.finditer(text):
            yield Span(text[place : match.start()], learned)
            yield Span(match[0], learned, True)
            place = match.end()
        rest = text[place:]
        yield Span(rest, learned and bool(rest.strip() or not place))


def _try(path: Path, text: str, words: dict[str, str]) -> None:
    """Run a template on a few words in a process of its own. Raises `UserError` if it goes wild.

    It is somebody's program, and could take all time and memory there is.
    """
    try:
        done = subprocess.run(
            command_of("data.readers.chat_templates", "trial()"),
            input=json.dumps([text, words]).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_STARVED,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the other
            check=False,
        )
        ended = done.returncode == 0
    except subprocess.TimeoutExpired:
        ended = False
    if not ended:
        raise UserError(
            f"{path}: its chat template takes more than {_SECONDS} s, or {_MEMORY >> 30} GiB, for "
            "a few words: use data.chat=chatml or rwkv"
        )


def trial() -> None:
    """What `_try` starts: render the template that standard input holds, within limits.

    An error is none here: it is told with the record in which it occurs.
    """
    from data.guest import limit

    die_with_parent()
    text, words = json.load(sys.stdin)
    limit(_MEMORY)
    spent = int(time.process_time()) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (spent + _SECONDS, spent + _SECONDS))
    for turns in _TRIALS:
        messages = [{"role": role, "content": content} for role, content in turns]
        for asks in (True, False):
            with suppress(Exception):
                try:
                    template = _environment().from_string(text)
                    template.render(messages=messages, add_generation_prompt=asks, **words)
                except MemoryError:
                    os.abort()


def template_file(conf: DataConf) -> bytes:
    """What decides how a tokenizer's own template writes; empty for the others."""
    if conf.chat != "tokenizer":
        return b""
    try:
        return json.dumps(_read(Path(conf.tokenizer))[1:]).encode()
    except UserError:  # told where it is used
        return b""


def _read(tokenizer: Path) -> tuple[Path, str, dict[str, str], list[str]]:
    """File and text of a template, the words that it may use, and names of special tokens.

    A file of its own goes before the configuration, as in `transformers`. Raises `UserError` if
    there is none.
    """
    folder = tokenizer if tokenizer.is_dir() else tokenizer.parent
    beside = folder / CONFIG
    try:
        config = read_object(beside, _MOST) if beside.exists() else {}
        words = {key: _name(value) for key, value in config.items() if key.endswith("_token")}
        known = {word: name for word, name in words.items() if name}
        file = folder / "tokenizer.json" if tokenizer.is_dir() else tokenizer
        names = {*known.values(), *_special(config), *_special_tokens(file)}
        path, template = folder / TEMPLATE, _default(config)
        try:
            template = read_text(path, _MOST)
        except Missing:
            if template is None:
                raise UserError(
                    f"data.chat=tokenizer: there is no chat template beside the tokenizer: neither "
                    f"chat_template in {beside} nor {path}; choose data.chat=rwkv or chatml"
                ) from None
            path = beside
    except Unreadable as error:
        raise UserError(f"data.chat=tokenizer: {error}") from None
    return path, template, known, sorted(names)


def _default(config: dict[str, Any]) -> str | None:
    """The template in a configuration, which may have several by name."""
    template = config.get("chat_template")
    named = {"default": template}
    if isinstance(template, list):
        each = [one for one in template if isinstance(one, dict)]
        named = {str(one.get("name")): one.get("template") for one in each}
    template = named.get("default")
    return template if isinstance(template, str) else None


def _special(config: dict[str, Any]) -> Iterator[str]:
    """Names of special tokens that a `tokenizer_config.json` lists, in the words of each time."""
    added = config.get("added_tokens_decoder")
    listed = [*added.values()] if isinstance(added, dict) else []
    yield from _special_names(listed)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key)
        more = [*more.values()] if isinstance(more, dict) else more
        yield from filter(None, map(_name, more if isinstance(more, list) else []))


def _special_tokens(file: Path) -> Iterator[str]:
    """Names of the special tokens of a `tokenizer.json`, which no configuration has to repeat.

    What else is in it, which would take seconds, is not read; a file of another kind has none.
    """
    with suppress(Unreadable, ValueError, RecursionError):
        text = read_text(file, LARGEST) if file.suffix == ".json" else ""
        for place in re.finditer(r'"added_tokens"\s*:\s*(?=\[)', text):
            yield from _special_names(json.JSONDecoder().raw_decode(text, place.end())[0])


def _special_names(tokens: list[Any]) -> Iterator[str]:
    special = (each for each in tokens if isinstance(each, dict) and each.get("special"))
    return filter(None, map(_name, special))


def _name(token: Any) -> str:
    """The text of a token in `tokenizer_config.json`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _environment() -> Any:
    """Jinja as `transformers` sets it up, but without a clock: a text must not depend on it."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which encloses what an assistant says: read as what it encloses."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def fail(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None, **options: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = fail
    return environment
