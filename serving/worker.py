"""A process that holds one model and answers what comes through a pipe.

A worker may die at any time: the server (`serving.supervisor`) knows every request and every token
it was sent, and gives both to the next one. It ends with the server, not with the signals that a
terminal or a service manager sends to the whole group: what was accepted is answered first.
"""

from __future__ import annotations

import logging
import signal
import traceback
from multiprocessing.connection import Connection

import torch

from core.errors import UserError
from core.processes import leave_with_parent
from models.contract import most_tokens
from serving.engine import Engine
from serving.requests import AtWork, Cancel, Event, Message, ModelInfo, Opener, Refused

logger = logging.getLogger(__name__)


def work(pipe: Connection, opener: Opener, threads: int) -> None:
    """Open the model, say what it is, and answer until the pipe is closed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    leave_with_parent(0)  # the fork server, which the kernel takes for its parent, may end before
    torch.set_num_threads(threads)
    try:
        loaded = opener()
        loaded.model.eval()
        engine = Engine(loaded.model)
        model = loaded.model
        pipe.send(
            ModelInfo(
                title=model.title,
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                recurrent=model.recurrent,
                most_tokens=most_tokens(model),
                tokenizer=loaded.tokenizer,
                backends=model.backends(),
                digest=engine.digest,
            )
        )
        _answer(pipe, engine)
    except UserError as error:
        pipe.send(Refused(str(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except Exception:
        logger.error("a worker ends:\n%s", traceback.format_exc())
        raise SystemExit(1) from None


def _answer(pipe: Connection, engine: Engine) -> None:
    """Answer what comes, and every `Cancel` too, if only with nothing: who is silent is stalled.

    Which requests are computed for is said beforehand, so that no other is blamed for a death.
    """
    said: frozenset[int] = frozenset()

    def say(at_work: frozenset[int]) -> None:
        nonlocal said
        if at_work != said:
            pipe.send(AtWork(at_work))
            said = at_work

    while True:
        events: list[Event] = []
        heard = False
        while pipe.poll(0 if engine.sequences or heard else None):
            message: Message = pipe.recv()
            heard = True
            if isinstance(message, Cancel):
                engine.cancel(message.id)
            else:
                say(engine.at_work | {message.id})  # a state may be read from a file
                events += engine.add(message)
        say(engine.at_work)
        events += engine.step()
        if events or heard:
            pipe.send(events)
