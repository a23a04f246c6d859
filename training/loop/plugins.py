"""Callbacks and loggers that a configuration names: some of Lightning's, or classes of the user's.

Names are looked up in the tables below. `path/to/file.py:Class` runs that file: whoever gives its
path trusts it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError, shown
from core.stop_signals import Preempted
from tracking.jsonl import read_rows

if TYPE_CHECKING:  # they take long to import, and a command line is checked before that
    from lightning import Callback
    from lightning.pytorch.loggers.logger import Logger

ONLY_LOG = ("DeviceStatsMonitor", "LearningRateMonitor")
"""Callbacks that need a logger, which only rank 0 has."""
CALLBACKS = ("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelSummary", "Timer")
"""Those of `lightning.pytorch.callbacks` that leave checkpoints and steps as they are."""
LOGGERS = {"CSVLogger": "csv", "TensorBoardLogger": "tensorboard"}
"""Those of `lightning.pytorch.loggers` that write files, with their folder inside the run's."""
USERS = "crossover_user_"
"""What the names of modules begin with that are files of users."""
KINDS = {"callbacks": (tuple(CALLBACKS), "Callback"), "loggers": (tuple(LOGGERS), "Logger")}


def window(text: str) -> tuple[int, int]:
    """First and last optimizer step of `FIRST:LAST`. Raises `ValueError` for anything else."""
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"{text!r} is not FIRST:LAST, two optimizer steps, as in 20:25")
    return int(match[1]), int(match[2])


def problems(key: str, items: Sequence[Any]) -> Iterator[str]:
    """What is wrong with `callbacks` or `loggers`, as far as words and files tell."""
    names, _ = KINDS[key]
    for item in items:
        name, _ = _parts(item)
        if not isinstance(name, str):
            yield f"{key}: {shown(item)} is neither a name nor a mapping with name: and arguments"
        elif ".py:" in name:
            path = _file(name)
            if not os.path.isfile(path):  # noqa: PTH113 (which raises for names that are too long)
                yield f"{key}={shown(name)}: no such file {shown(path)}"
        elif name not in names:
            near = get_close_matches(name, names, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
            yield f"{key}={shown(name)}: {hint} (or a class of yours: path/to/file.py:Class)"
        elif name == "TensorBoardLogger" and not _has_tensorboard():
            yield "loggers=TensorBoardLogger needs the package tensorboard: pip install tensorboard"


def check(key: str, items: Sequence[Any]) -> None:
    """Raise `UserError` unless each names a class that takes its arguments; runs files of users."""
    for item in items:
        cls, arguments = _class(key, item), _parts(item)[1]
        given = dict(arguments)
        if key == "loggers" and _parts(item)[0] in LOGGERS:
            given = {"save_dir": ".", **given}
        try:
            inspect.signature(cls).bind(**given)
        except TypeError as error:
            raise UserError(
                f"{key}: {cls.__name__} does not take these arguments: {error}"
            ) from None


def build_callbacks(items: Sequence[Any], rank: int) -> list[Callback]:
    """The callbacks of one rank, in their order. Raises `UserError` where one cannot be made."""
    mine = [item for item in items if rank == 0 or _parts(item)[0] not in ONLY_LOG]
    return [_made("callbacks", item, {}) for item in mine]


def build_loggers(items: Sequence[Any], folder: Path, metrics: Path, step: int) -> list[Logger]:
    """The loggers of a run in `folder` that goes on after `step`.

    TensorBoard's reader is told to forget what was logged later, and a CSV file, which Lightning
    begins anew, gets the rows of `metrics`, the run's metrics.jsonl, again. Raises `UserError`
    where a logger cannot be made.
    """
    made = []
    for item in items:
        name = _parts(item)[0]
        defaults: dict[str, Any] = {}
        if name in LOGGERS:
            defaults = {"save_dir": str(folder), "name": LOGGERS[name], "version": ""}
        if name == "TensorBoardLogger":
            defaults |= {"default_hp_metric": False} | ({"purge_step": step + 1} if step else {})
        logger = _made("loggers", item, defaults)
        if name == "CSVLogger":
            with warnings.catch_warnings():  # Lightning tells that it begins the file anew
                warnings.filterwarnings("ignore", message="Experiment logs directory")
                for row in read_rows(metrics):
                    values = {key: row[key] for key in row if key not in ("step", "time")}
                    logger.log_metrics(values, row["step"])
        made.append(logger)
    return made


@contextmanager
def told() -> Iterator[None]:
    """Turn what a user's callback or logger raises into a `UserError` that says where it did.

    Errors with no frame in a file of a user's pass as they are, and so do a `UserError`, a pipe
    that nobody reads, and a training that was asked to stop.
    """
    try:
        yield
    except (UserError, BrokenPipeError, Preempted):
        raise
    except (Exception, SystemExit) as error:  # an exit would end the training as if it were done
        if (place := _place(error)) is None:
            raise
        what = f"{type(error).__name__}: {shown(error, 300)}"
        raise UserError(f"{place} raised {what}. Mend that file and start again") from error


def _place(error: BaseException) -> str | None:
    """File, line, class and hook of a user's in which an error was raised, if it was in one."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    users = [each for each in frames if str(each[0].f_globals.get("__name__")).startswith(USERS)]
    if users:
        (first, _), (last, line) = users[0], users[-1]
        owner = first.f_locals.get("self")  # the class that was made may have inherited the hook
        method = first.f_code.co_name
        name = method if owner is None else f"{type(owner).__name__}.{method}"
        return f"{last.f_code.co_filename}, line {line}: {name}"
    hook: Any = frames[-1][0].f_locals.get(
        "fn"
    )  # which Lightning could not call with its arguments
    if isinstance(error, TypeError) and (getattr(hook, "__module__", "") or "").startswith(USERS):
        code = inspect.unwrap(hook).__code__
        return f"{code.co_filename}, line {code.co_firstlineno}: {hook.__qualname__}"
    return None


def _made(key: str, item: Any, defaults: dict[str, Any]) -> Any:
    name, arguments = _parts(item)
    cls = _class(key, item)
    try:
        return cls(**{**defaults, **arguments})
    except Preempted:
        raise
    except (Exception, SystemExit) as error:  # of a class whose author may be anybody
        what = str(error).strip().splitlines() or [type(error).__name__]
        if isinstance(error, SystemExit):  # which has no text, or only a number
            what = [f"SystemExit: {error}"]
        raise UserError(f"{key}: {shown(name)} cannot be made ({shown(what[0], 300)})") from error


def _class(key: str, item: Any) -> Any:
    """The class that an item names. Raises `UserError` where there is none."""
    name, _ = _parts(item)
    names, kind = KINDS[key]
    if name in names:
        return getattr(importlib.import_module(f"lightning.pytorch.{key}"), name)
    from lightning import Callback
    from lightning.pytorch.loggers.logger import Logger

    path, wanted = _file(str(name)), str(name).rpartition(":")[2]
    cls = getattr(_module(key, path), wanted, None)
    base = Callback if kind == "Callback" else Logger
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(
            f"{key}={shown(name)}: {wanted} in {path} is not a subclass of {base.__module__}."
            f"{base.__name__}"
        )
    return cls


def _file(name: str) -> Path:
    """The file of `path/to/file.py:Class`."""
    return Path(os.path.expanduser(name.rpartition(":")[0]))  # noqa: PTH111 (which may raise)


def _module(key: str, path: Path) -> Any:
    """A file of the user's as a module, run once."""
    name = f"{USERS}{path.stem}_{abs(hash(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{key}: {path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Preempted:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:  # an exit would end the training as if it were done
        del sys.modules[name]
        raise UserError(
            f"{key}: {path} cannot be imported ({type(error).__name__}: {shown(error, 300)})"
        ) from error
    return module


def _parts(item: Any) -> tuple[Any, dict[str, Any]]:
    """Name and arguments; the name is None for what is neither of the two forms."""
    if isinstance(item, str):
        return item, {}
    if isinstance(item, Mapping) and isinstance(item.get("name"), str):
        return item["name"], {str(key): each for key, each in item.items() if key != "name"}
    return None, {}


def _has_tensorboard() -> bool:
    return any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX"))
