"""Searches by other sweepers, which Hydra runs: a plug-in of the test's own is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

from core.errors import UserError
from scripts.cli.check import problems_of
from scripts.cli.hydra_flags import Line
from scripts.cli.search import read_search, values_to_check
from tests.scripts.commands import run_script

PLUGIN = """
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


@dataclass
class Conf:
    _target_: str = "hydra_plugins.ends_sweeper.ends.EndsSweeper"
    trials: int = 2
    go_on: bool = False


ConfigStore.instance().store(group="hydra/sweeper", name="ends", node=Conf, provider="ends")


class EndsSweeper(Sweeper):
    '''Proposes the lower ends of intervals and the first of values, then the others.'''

    def __init__(self, trials, go_on):
        self.trials, self.go_on = trials, go_on

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        for number in range(self.trials):
            words = []
            for override in OverridesParser.create().parse_overrides(arguments):
                value, key = override.value(), override.get_key_element()
                if override.is_interval_sweep():
                    words.append(f"{key}={(value.start, value.end)[number % 2]}")
                elif override.is_sweep_override():
                    several = list(override.sweep_string_iterator())
                    words.append(f"{key}={several[number % len(several)]}")
                else:
                    words.append(f"{key}={override.get_value_element_as_str()}")
            (ended,) = self.launcher.launch([words], initial_job_idx=number)
            try:
                float(ended.return_value)
            except Exception:
                if not self.go_on:
                    raise
"""
TINY = [
    "model.size=tiny", "model.n_layer=1", "data=text", "data.paths=[text.txt]",
    "data.tokenizer=bytes", "data.length=16", "data.val_fraction=0.2", "optim.warmup_steps=1",
    "optim.final_lr=0", "trainer.max_steps=2", "trainer.val_check_interval=2",
    "wandb.mode=disabled", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu",
]  # fmt: skip
SEARCH = ["-m", "hydra/sweeper=ends", "group=g", "optim.lr=interval(0.001,0.01)"]


def reload_plugins() -> None:
    """What is installed is looked up once in a process."""
    for name in [name for name in sys.modules if name.startswith("hydra_plugins.ends_sweeper")]:
        del sys.modules[name]
    Singleton._instances.pop(Plugins, None)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site/hydra_plugins/ends_sweeper"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "ends.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(folder.parents[1])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("alpha beta gamma delta " * 300)
    reload_plugins()
    yield folder / "ends.py"
    monkeypatch.undo()
    reload_plugins()


def test_the_trials_are_runs_of_the_group_and_none_is_repeated(
    plugin: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*SEARCH, "hydra.sweeper.trials=3", "model=rwkv4", *TINY]
    done = run_script(capfd, "train", *words)
    assert done.status == 0, done.err
    summaries = {path: path.read_bytes() for path in Path("runs/g").glob("*/summary.json")}
    losses = sorted(json.loads(content)["val_loss"] for content in summaries.values())
    assert len(losses) == 2  # the third has the values of the first
    table = done.out[done.out.index("runs/g: 3 trials, the best first") :].splitlines()[1:]
    assert [float(line.split()[0]) for line in table[::2]] == pytest.approx(losses, abs=1e-4)
    assert {line.split(maxsplit=1)[1] for line in table} == {"optim.lr=0.001", "optim.lr=0.01"}

    assert run_script(capfd, "train", *words).status == 0
    assert {path: path.read_bytes() for path in Path("runs/g").glob("*/summary.json")} == summaries


@pytest.mark.slow
def test_what_a_failed_trial_means_is_for_the_sweeper_to_say(
    plugin: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "hydra/sweeper=ends", "group=g", "optim.lr=1e6,1e-3", "model=rwkv4", *TINY]
    done = run_script(capfd, "train", *words)
    assert done.status == 2 and "Traceback" not in done.err
    assert done.err.count("has ended at a failed run") == 1
    done = run_script(capfd, "train", *words, "hydra.sweeper.go_on=true")
    assert done.status == 2 and "1 trials, the best first" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*SEARCH, "optim.schedule=cosine,lienar"], "did you mean 'linear'?"),
        ([*SEARCH, "hydra.sweeper.trails=3"], "did you mean 'hydra.sweeper.trials'?"),
        ([*SEARCH, "hydra.sweeper.trials=x"], "expected an integer"),
        ([*SEARCH, "hydra.sweeper._target_=os.system"], "of Hydra's own keys only those"),
        ([*SEARCH, "hydra/sweeper/sampler=x"], "no such sampler"),
        ([*SEARCH, "name=a"], "name= would name every trial"),
        ([*SEARCH, "trainer.log_every_n_steps=5,10"], "give it one value"),
        (["-m", "hydra/sweeper=ends", "group=g"], "nothing to search"),
        (["-m", "hydra/sweeper=ends", "seed=1,2"], "needs group="),
        (["hydra/sweeper=ends", "group=g", "seed=1,2"], "add -m"),
        (["-m", "hydra/sweeper=nevergrad", "group=g", "seed=1,2"], "and so does ends"),
    ],
)
def test_one_message_before_any_trial(
    plugin: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    done = run_script(capfd, "train", *words)
    assert done.status == 2 and message in " ".join(done.err.split())
    assert not Path("runs").exists()


def test_what_no_script_can_search(plugin: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = run_script(capfd, "probe", "-m", "hydra/sweeper=ends", "seed=1,2")
    assert done.status == 2 and "probe.py has no objective" in done.err


def test_a_plugin_that_cannot_be_loaded_is_one_message(
    plugin: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin.write_text("raise ValueError('too old')")
    done = run_script(capfd, "train", "--help")
    assert done.status == 2 and f"cannot load the plug-in {plugin}" in done.err
    assert "Traceback" not in done.err


def test_a_grid_by_name_is_the_grid() -> None:
    assert problems_of("train", ["-m", "hydra/sweeper=basic", "seed=1,2"]) == []


def test_every_value_has_a_line() -> None:
    words = ["group=g", "seed=1,2", "optim.lr=interval(1e-4,1e-2)", "model.n_layer=range(1,4)"]
    lines = read_search(Line(["hydra/sweeper=x", *words], ["--multirun"])).lines()
    assert [line.words for line in lines] == [
        ["group=g", "seed=1", "optim.lr=0.0001", "model.n_layer=1"],
        ["group=g", "seed=2", "optim.lr=0.0001", "model.n_layer=1"],
        ["group=g", "seed=1", "optim.lr=0.01", "model.n_layer=1"],
        ["group=g", "seed=1", "optim.lr=0.0001", "model.n_layer=2"],
        ["group=g", "seed=1", "optim.lr=0.0001", "model.n_layer=3"],
    ]
    with pytest.raises(UserError, match="over 1000 values"):
        values_to_check("seed=range(0,2000)")
