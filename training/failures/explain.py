"""Turns failures of the machine into messages that say what the user can do."""

from __future__ import annotations

import gc
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from conf.schema import TrainConf
from core.errors import UserError
from core.out_of_memory import is_out_of_memory
from core.stop_signals import Preempted
from core.writable import DISK
from models.registry import ModelSpec
from training.checkpoints.find import saved
from training.failures.oom_advice import remedies, room
from training.run_folder.folder import RunFolder

WORKER = re.compile(r"DataLoader worker .*(exited unexpectedly|killed by signal)")
IN_WORKER = re.compile(r"(?s)^Caught UserError in .*\nmodels\.errors\.UserError: (.*)")


@contextmanager
def explained(conf: TrainConf, spec: ModelSpec, folder: RunFolder) -> Iterator[None]:
    """Turn a full disk, a lack of memory and a dead loader process into a `UserError`.

    Anything else passes through: it is a bug, and its traceback is wanted.
    """
    before = room()
    try:
        yield
    except UserError as error:
        if match := IN_WORKER.search(str(error)):  # torch wraps it in two tracebacks
            raise UserError(match[1].strip()) from None
        if str(error).startswith("wkv"):  # an operator refuses what the weights have made
            raise UserError(
                f"{error}: the weights have left the range in which the model can be computed, "
                f"which a lower optim.lr prevents. {to_continue(folder)}"
            ) from None
        raise
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, Preempted):  # and Lightning failed to tidy up a half-begun loop
                raise cause from None
        for cause in causes(error):
            if isinstance(cause, OSError) and cause.errno in DISK:
                what = cause.filename or "a file of this run"
                raise UserError(
                    f"{what} cannot be written: {cause.strerror}. {to_continue(folder)}"
                ) from None
        if WORKER.search(str(error)):
            raise UserError(
                f"a loader process died ({str(error).splitlines()[0]}); with data.workers=0 there "
                f"are none. {to_continue(folder)}"
            ) from None
        if not is_out_of_memory(error):
            raise
        asked = str(error).splitlines()[0] if str(error) else "MemoryError"
        let_go(error)  # and the tensors of the failed step
    else:
        return
    smaller = remedies(conf, spec, before)
    raise UserError(f"out of memory ({asked}). {smaller}. {to_continue(folder)}")


def let_go(error: BaseException) -> None:
    """Empty the frames of an error and of those behind it, before it outlives them.

    They hold the model and the loader, and so the memory of the one and the processes of the other.
    """
    for cause in causes(error):
        traceback.clear_frames(cause.__traceback__)
    gc.collect()  # Lightning's objects refer to each other


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def to_continue(folder: RunFolder) -> str:
    """From where the run can go on."""
    checkpoints = saved(folder)
    if not checkpoints:
        return "There is no checkpoint yet: the same command starts again"
    return f"The last good checkpoint is {checkpoints[-1]}: the same command continues from it"
