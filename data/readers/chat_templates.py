"""How a conversation is written: RWKV World's words, ChatML, or the template of a tokenizer.

What the assistant says is learned, with the end of its turn; everything else is only read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from conf.schema import DataConf
from core.errors import UserError, shown
from core.parsing import Missing, Unreadable, read_object, read_text
from data.readers.shapes import BadRecord
from data.readers.template_sandbox import TemplateProcess, environment, try_on, written
from data.tokenizer_files import LARGEST

ANSWERS = "assistant"
"""The role whose turns are learned."""
CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
"""Files beside a tokenizer that may hold its template."""
_RWKV = {"system": "System", "user": "User", ANSWERS: "Assistant"}
_MOST = 16 << 20  # bytes of a file that holds a template


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


def named(chat: str, tokenizer: Path, guarded: bool = False) -> Template:
    """The template `rwkv`, `chatml`, or `tokenizer`: what lies beside it, or `UserError`.

    `guarded` has the last write each conversation in another process, with limits.
    """
    if chat == "rwkv":
        return Rwkv()
    return ChatML() if chat == "chatml" else Jinja(tokenizer, guarded)


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

    def __init__(self, tokenizer: Path, guarded: bool = False) -> None:
        """`guarded` as in `named`. Raises `UserError` if there is none, or it is not valid."""
        self._path, self._text, self._words, names = _read(tokenizer)
        with self._told():
            environment().parse(self._text)
        self._guard = TemplateProcess(self._path, self._text, self._words) if guarded else None
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
        try_on(self._path, self._text, self._words)
        with self._told():
            return environment().from_string(self._text)

    @contextmanager
    def _told(self) -> Iterator[None]:
        from jinja2 import TemplateSyntaxError

        try:
            yield
        except (TemplateSyntaxError, RecursionError) as error:
            raise UserError(f"{self._path}: its chat template is not valid ({error})") from None

    def _written(self, turns: Sequence[Turn], asks: bool) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        if self._guard is not None:
            return self._guard.write(messages, asks)
        return written(self._path, self._template, messages, asks, self._words)

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
