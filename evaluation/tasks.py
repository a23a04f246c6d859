"""Tasks of EleutherAI's lm-evaluation-harness: found, read and answered.

The harness is imported here and in `evaluation.harness`, which are imported where tasks are given.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lm_eval
from jinja2 import UndefinedError
from lm_eval.tasks import TaskManager

from core.errors import UserError, shown
from core.parsing import read_lines
from data.text import TextTokenizer
from evaluation.harness import HarnessModel
from models.contract import Model

BOOTSTRAP = 1000
"""Resamples behind the standard errors of figures that are no means."""
NEAR = 5  # names that a message proposes


class Tasks:
    """Named tasks, their data not read yet."""

    def __init__(self, names: Sequence[str], folder: str | None = None) -> None:
        """`folder` holds further tasks as YAML files. Raises `UserError` for unknown names."""
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self._names = list(names)
        with explained(f"include_path={folder}: its tasks" if folder else "the harness's tasks"):
            # The harness's own thousands of tasks take long to list: only where they are needed.
            inside = TaskManager(include_path=folder, include_defaults=False) if folder else None
            alone = inside is not None and set(names) <= set(inside.all_tasks)
            self._manager = inside if inside and alone else TaskManager(include_path=folder)
        known = self._manager.all_tasks
        for name in self._names:
            if name not in known:
                near = get_close_matches(name, known, NEAR, 0.6) or [
                    each for each in known if name.lower() in each.lower()
                ]
                hint = f"; did you mean {', '.join(near[:NEAR])}?" if near else ""
                raise UserError(
                    f"tasks={shown(name)}: the harness {lm_eval.__version__} has no such task{hint}"
                    " (include_path= adds a folder of your own)"
                )

    def answer(
        self,
        model: Model,
        tokenizer: TextTokenizer,
        context: int | None,
        fewshot: int | None = None,
        limit: int = 0,
        file: str | None = None,
    ) -> dict[str, Any]:
        """Read the tasks and have the model answer them; plain values, as evaluation.json has them.

        Each line of `file` is an example of the one task, in place of its own data. Raises
        `UserError` for data that cannot be read.
        """
        adapter = HarnessModel(model, tokenizer, context)
        with TemporaryDirectory() as scratch:
            loaded = []
            for name in self._names:
                with explained(f"tasks={name}: its examples"):
                    if file is not None:
                        loaded.append(self._with_file(name, Path(file), scratch))
                    else:
                        loaded += self._manager.load(name)["tasks"].values()
            named = ",".join(self._names)
            with explained(f"tasks={named}: its examples", UndefinedError):
                found = lm_eval.simple_evaluate(
                    adapter,
                    tasks=loaded,
                    num_fewshot=fewshot,
                    limit=limit or None,
                    bootstrap_iters=BOOTSTRAP,
                    log_samples=False,
                    task_manager=self._manager,
                )
        assert found is not None
        reader = adapter.reader
        return {
            "harness": lm_eval.__version__,
            "context": context,
            "fewshot": found.get("n-shot", {}),
            "examples": {name: each["effective"] for name, each in found["n-samples"].items()},
            "versions": found.get("versions", {}),
            "results": {name: _figures(each) for name, each in found["results"].items()},
            "tokens_read": reader.computed,
            "tokens_asked": reader.asked,
        }

    def _with_file(self, name: str, path: Path, scratch: str) -> Any:
        """The task with the lines of a file as its examples."""
        if name not in self._manager.all_subtasks:
            members = [
                each
                for each in self._manager.all_subtasks
                if name in self._manager.task_index[each].tags
            ]
            raise UserError(
                f"tasks_file= is read by one task, and {name} stands for several"
                + (f": choose one of {', '.join(members[:NEAR])}" if members else "")
            )
        for line in read_lines(path):
            if line.value is None:
                raise UserError(f"tasks_file={path}, line {line.number}: {line.problem}")
        split = "test"
        words = {
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {split: str(path.absolute())},
                "cache_dir": scratch,  # the harness's library keeps a copy of what it reads
            },
            "training_split": None,
            "validation_split": None,
            "test_split": split,
            "fewshot_split": split,
        }
        entry, index = self._manager.task_index[name], self._manager.task_index
        return self._manager._factory.build(entry, overrides=words, registry=index)


@contextlib.contextmanager
def explained(what: str, kind: type[Exception] = Exception) -> Iterator[None]:
    """Turn what the harness raises into a `UserError` that `what` cannot be read, and keep what it
    prints from the terminal.

    What is wrong in a task's file or data comes as an exception of any kind.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except UserError:
        raise
    except kind as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{what} cannot be read ({shown(lines[0], 300)}). The harness reads "
            "most tasks from Hugging Face; tasks_file= gives a task the lines of a file of yours, "
            "and include_path= a folder with tasks of yours"
        ) from None


def _figures(found: dict[str, Any]) -> dict[str, float]:
    """The numbers among a task's results, by the harness's names; without its fixed filter."""
    return {
        key.removesuffix(",none"): float(value)
        for key, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value) and "," in key
    }
