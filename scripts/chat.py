"""Talk to a model in the terminal: `python scripts/chat.py run=first`.

`/new` begins again, Ctrl-C ends an answer, Ctrl-D the conversation. Lines that come through a pipe
are answered one after another.
"""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("chat", "scripts.chat:main")

import sys
from collections.abc import Iterator

from conf.schema import ChatConf
from core.errors import UserError
from core.units import counted, size_bytes
from models.decoding.settings import Sampling
from scripts.cli.console import print_error
from serving.chat_template import find_template
from serving.conversation import Conversation, Tally
from training.checkpoints.open_model import open_model

NEW = "/new"


def main(conf: ChatConf) -> None:
    """Answer line by line until the input ends. Raises `UserError` for what cannot be opened."""
    opened = open_model(conf)
    template = find_template(conf.chat, opened.tokenizer_path, opened.tokenizer, guarded=True)
    sampling = Sampling(conf.temperature, conf.top_k, conf.top_p, seed=conf.seed)
    conversation = Conversation(opened.model, template, sampling, conf.tokens, conf.system)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal:
        print(f"{opened.model.title}, {template.name} template; {NEW} begins again, Ctrl-D ends")
    for line in _lines(is_terminal):
        if line == NEW:
            conversation.begin()
            continue
        _answer(conversation, line)
        if is_terminal and conversation.tally is not None:
            print(f"[{_taken(conversation.tally)}]")


def _lines(is_terminal: bool) -> Iterator[str]:
    """What the user says, without empty lines."""
    while True:
        try:
            line = input("> " if is_terminal else "")
        except EOFError:
            if is_terminal:
                print()
            return
        if line.strip():
            yield line


def _answer(conversation: Conversation, line: str) -> None:
    """Print an answer as it comes; one that is interrupted stays as far as it came."""
    pieces = conversation.ask(line)
    try:
        shown = False
        for piece in pieces:
            piece = piece if shown else piece.lstrip()
            shown = shown or bool(piece)
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        pieces.close()
    except UserError as error:
        print_error(f"{error}; {NEW} begins again")
    print()


def _taken(tally: Tally) -> str:
    rate = f"{tally.written / tally.write_seconds:.1f} tokens/s" if tally.write_seconds else ""
    return (
        f"{counted(tally.read, 'token')} read in {tally.read_seconds:.2f} s, "
        f"{tally.written:,} written, {rate}; after {tally.position:,} tokens the state takes "
        f"{size_bytes(tally.state_bytes)}"
    )
