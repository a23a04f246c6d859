"""Runs a script without a traceback for Ctrl-C, a closed pipe, or a letter that cannot be shown."""

from __future__ import annotations

import io
import locale
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C has ended
Handler = Callable[[int, Any], Any] | int | None


def run(body: Callable[[], int]) -> int:
    """The exit status of a script's work: `body`'s, `INTERRUPTED` after Ctrl-C, 0 without a reader.

    Until `expect_interrupts` is called, Ctrl-C ends the process on the spot.
    """
    # Files are UTF-8 whatever the terminal is; there, escape what it cannot show.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if locale.getencoding().lower().replace("-", "") != "utf8":
        with suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    with _interrupts():
        try:
            status = body()
        except KeyboardInterrupt:
            print("stopped by Ctrl-C", file=sys.stderr)
            status = INTERRUPTED
        except BrokenPipeError:  # nobody reads on, as with `| head`
            status = 0
        except SystemExit as error:  # how rich reports the same
            if not isinstance(error.__context__, BrokenPipeError):
                raise
            status = 0
        finally:
            # Send what is left, or Python would complain about a closed pipe while it shuts down.
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except BrokenPipeError:
                    with suppress(OSError, ValueError):
                        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                except (OSError, ValueError, AttributeError):
                    pass  # closed, or no stream at all
    return status


def is_unread() -> bool:
    """Whether one of the standard streams is a pipe whose reader has gone."""
    import select  # not on every system with a `poll`

    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                return True
    return False


def expect_interrupts() -> None:
    """From here on Ctrl-C is a `KeyboardInterrupt`: there may be something to tidy up."""
    with suppress(ValueError):  # signals belong to the main thread
        if signal.getsignal(signal.SIGINT) is _leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(signum: int, frame: Any) -> None:
    os._exit(INTERRUPTED)


@contextmanager
def _interrupts() -> Iterator[None]:
    before: Handler = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, as in a shell's background
        yield
        return
    try:
        signal.signal(signal.SIGINT, _leave)  # inside an import an exception could be swallowed
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
