"""Weights & Biases: one run per model, which may fail but never stops anything.

Runs of one sweep share a wandb group and one `wandb/` folder, so that their curves overlay in
`wandb leet runs/GROUP/wandb` as they do on a server. Each run's id lies in its own folder.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import netrc
import os
import re
import secrets
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from conf.schema import WandbConf
from core.files import write_text
from core.launcher import detect_launcher
from core.parsing import Missing, Unreadable, read_text

log = logging.getLogger("crossover")

STEP = "trainer/global_step"
PROBE_AXES = {"probe/*": "context_length"}
CACHES = ("HOME", "XDG_CACHE_HOME")  # by which wandb's process finds a place for its log
START_SECONDS = 30.0  # to reach the server, before recording offline
DEAD = (ConnectionResetError, BrokenPipeError)  # what talking to a dead process raises
ID = re.compile(r"[\w-]{1,128}", re.ASCII)
LONGEST_TAG = 64
NOT_IN_PROJECTS = "/\\#?%:"
LONGEST = 128  # characters that wandb's server takes for a run, a group or an artifact
RECENT = 1000  # rows
REVIVALS = 3  # of wandb's process, per run
FINISH_SECONDS = 600.0  # for uploads at the end; what is left stays on disk for `wandb sync`


def train_axes(over: str = "step") -> dict[str, str]:
    """The x axis that charts of a training have at first: one of `wandb.over`."""
    axis = STEP if over == "step" else f"train/{over}"
    return {"train/*": axis, "val/*": axis}


def load_wandb() -> Any:
    """The library, imported where it is used: a broken installation must not stop training."""
    if not any(os.environ.get(name) for name in CACHES):
        # Its process would print its log, and put a cache into the working folder.
        os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir(), f"crossover-{os.getuid()}"))
    return importlib.import_module("wandb")


def has_login() -> bool:
    """Whether wandb would find a key: in its settings, its environment or the netrc file."""
    settings = load_wandb().setup().settings
    if settings.api_key:
        return True
    host = urlparse(settings.base_url).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_mode(conf: WandbConf) -> str:
    """`auto` becomes `online` with a login and `offline` without; the rest stays."""
    if conf.mode != "auto":
        return conf.mode
    return "online" if has_login() else "offline"


def run_id(path: Path) -> str:
    """The wandb id kept in `path`, made if there is none: a restart continues the same run.

    It starts with the run's name, because `wandb leet` lists runs by their ids.
    """
    try:
        identifier = read_text(path, most=1 << 10).strip()
        if ID.fullmatch(identifier):
            return identifier
        problem = f"{path}: no id of wandb's"
    except Unreadable as error:
        problem = "" if isinstance(error, Missing) else str(error)
    if problem:
        log.warning("%s: another wandb run begins", problem)
    identifier = f"{path.stem[:48]}-{secrets.token_hex(4)}"
    write_text(path, f"{identifier}\n")
    return identifier


class Tracker:
    """One wandb run, and a context manager.

    Nothing that goes wrong in wandb is raised: the first failure is a warning, and the run goes on
    without what failed. If wandb's process dies, another one goes on offline. A server that cannot
    be reached when the run starts means offline records. On leaving the `with` block the run is
    finished, as failed if an exception passes through.
    With `wandb.mode=disabled`, and in all processes but the first, every method does nothing.
    """

    def __init__(
        self,
        conf: WandbConf,
        name: str,
        *,
        group: str | None,
        job_type: str,
        identity: Path,
        records: Path,
        config: dict[str, Any],
        axes: dict[str, str] | None = None,
    ) -> None:
        """`identity` is the file of the run's id; what is logged goes to `records`/wandb/.

        `axes` maps metrics to their x axes.
        """
        self._name = name
        self._run: Any = None
        self._troubled = False
        self._revivals = 0
        self._axes = axes or {}
        # A process that dies takes along what it has not written yet: these are sent again.
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        place = detect_launcher()
        if conf.mode == "disabled" or (place is not None and place.rank):
            return
        options: dict[str, Any] = {
            "project": conf.project,
            "entity": conf.entity,
            "name": fitting(name),
            "group": group and fitting(group),
            "job_type": job_type,
            "tags": list(conf.tags),
            "dir": str(records),
            "config": config,
            "resume": "allow",
            "reinit": "create_new",  # never continue another run that could not be finished
        }
        self._options = options
        self._guard(lambda: self._start(conf, identity, options))
        self._each(lambda run: define_axes(run, self._axes))

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return "" if self._run is None else self._run.id

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """One row; `step` is the optimizer step."""
        at = {} if step is None else {"trainer/global_step": step}
        row = {**metrics, **at}
        self._each(lambda run: run.log(row))
        self._recent.append(row)

    def summary(self, values: dict[str, Any]) -> None:
        """Numbers of the whole run."""
        self._each(lambda run: run.summary.update(values))

    def table(self, key: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A `wandb.Table`."""
        data = [list(row) for row in rows]

        def send(run: Any) -> None:
            run.log({key: load_wandb().Table(columns=list(columns), data=data)})

        self._each(send)

    def page(self, key: str, path: Path) -> None:
        """A self-contained HTML file, shown as it is."""
        self._each(lambda run: run.log({key: load_wandb().Html(str(path), inject=False)}))

    def artifact(self, name: str, kind: str, paths: Iterable[Path], upload: bool = True) -> None:
        """Files as one artifact; without `upload` wandb gets their place and checksum only.

        A name that wandb would not take is changed, and stays apart from all others.
        """

        def send(run: Any) -> None:
            safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
            artifact = load_wandb().Artifact(fitting(safe, of=name), type=kind)
            for path in paths:
                if upload and path.is_dir():
                    artifact.add_dir(str(path), name=path.name)
                elif upload:
                    artifact.add_file(str(path))
                else:
                    artifact.add_reference(path.resolve().as_uri())
            run.log_artifact(artifact)

        self._each(send)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._each(lambda run: run.finish(exit_code=0 if kind is None else 1))
        self._run = None

    def _start(self, conf: WandbConf, identity: Path, options: dict[str, Any]) -> None:
        wandb = load_wandb()
        settings = wandb.Settings(
            silent=True, console="off", init_timeout=START_SECONDS, finish_timeout=FINISH_SECONDS
        )
        options |= {"id": run_id(identity), "settings": settings}
        wait_for_a_new_second(Path(options["dir"]), options["id"])
        mode = wandb_mode(conf)
        try:
            self._run = wandb.init(mode=mode, **options)
        except Exception as error:
            if mode == "offline":
                raise
            log.warning("wandb: %s; recording offline instead", first_line(error))
            wandb.teardown()  # or the id would count as in use
            self._run = wandb.init(mode="offline", **options)
        if self._run.id != options["id"]:  # the agent of a wandb sweep has chosen one
            write_text(identity, self._run.id + "\n")

    def _each(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except DEAD as error:
            reason = first_line(error)
            self._guard(lambda: self._revive(reason, action))
        except Exception as error:
            self._warn(error)

    def _revive(self, reason: str, action: Callable[[Any], object]) -> None:
        """Wandb's own process has died: another one takes over, offline, and does `action`."""
        wandb = load_wandb()
        self._run = None
        with suppress(Exception):  # else it would try to reach the dead one again at exit
            wandb.teardown()
        self._revivals += 1
        if self._revivals > REVIVALS:
            raise RuntimeError(f"its process keeps dying ({reason})")
        if not self._troubled:
            log.warning("wandb: %s; recording offline in a new process from here", reason)
        self._troubled = True
        wait_for_a_new_second(Path(self._options["dir"]), self._options["id"])
        self._run = wandb.init(mode="offline", **self._options)
        define_axes(self._run, self._axes)
        for row in self._recent:
            self._run.log(row)
        action(self._run)

    def _guard(self, action: Callable[[], object]) -> None:
        """Call `action`; the first exception of the run is a warning."""
        try:
            action()
        except Exception as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._troubled:
            log.warning("wandb: %s; going on without it", first_line(error))
        self._troubled = True


def fitting(text: str, of: str | None = None) -> str:
    """`text` if it is that `of` which it was made, and as short as wandb needs; else as much of it
    as fits before a digest."""
    of = text if of is None else of
    if text == of and len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(of.encode()).hexdigest()[:10]
    return f"{text[: LONGEST - len(digest) - 1].rstrip('-._')}-{digest}"


def wandb_problems(conf: WandbConf) -> Iterator[str]:
    """What wandb would not take, which a run would find out when it has begun."""
    if conf.mode == "disabled":
        return
    if len(conf.project) > LONGEST or set(conf.project) & set(NOT_IN_PROJECTS):
        yield (
            f"wandb.project={conf.project!r:.160}: wandb takes up to {LONGEST} characters, and "
            f"none of {' '.join(NOT_IN_PROJECTS)}"
        )
    for tag in conf.tags:
        if not 1 <= len(tag) <= LONGEST_TAG:
            yield f"wandb.tags: {tag!r:.160}: wandb takes 1 to {LONGEST_TAG} characters for a tag"


def wait_for_a_new_second(records: Path, run: str) -> None:
    """Wandb names a run's folder after the second it starts in and would write over that of a run
    with the same id: wait until no folder has the current one."""
    while any((records / "wandb").glob(f"*run-{time.strftime('%Y%m%d_%H%M%S')}-{run}")):
        time.sleep(0.05)


def define_axes(run: Any, axes: dict[str, str]) -> None:
    """Declare which metric is the x axis of which, so that curves need no set-up."""
    for axis in dict.fromkeys(axes.values()):
        run.define_metric(axis)
    for metric, axis in axes.items():
        run.define_metric(metric, step_metric=axis)


def first_line(error: Exception) -> str:
    """What went wrong, without the pages that may follow."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
