"""Searches that can be continued: `hydra/sweeper=optuna`."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna.distributions as of
import pytest

from core.errors import UserError
from core.stop_signals import STOPPED, Preempted
from scripts.cli import study
from scripts.cli.arguments import parsed
from scripts.cli.hydra_flags import Line
from scripts.cli.study import Study, distribution, propose
from tests.scripts.commands import ROOT, run_script

WORDS = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "group=g", "trainer.max_steps=3"]
SPACE = ["optim.lr=tag(log,interval(1e-4,1e-1))", "model=rwkv4,rwkv7"]


class Killed(BaseException):
    pass


def begin(*words: str) -> tuple[Study, int, list[Line]]:
    return study.begin(Line([*WORDS, *words], ["--multirun"]))


def trained(place: Path, dies_in: int | None = None, fails_in: int | None = None) -> Any:
    """`conf_of` and `train` of a study whose runs take no time, and the names of those begun."""
    begun: list[str] = []

    def conf_of(words: list[str]) -> Any:
        values = dict(word.split("=", 1) for word in words)
        return SimpleNamespace(runs_dir=str(place), group="g", values=values)

    def train(conf: Any) -> float:
        name, rate = conf.values["name"], float(conf.values["optim.lr"])
        begun.append(name)
        if len(begun) - 1 == dies_in:
            raise Killed
        if len(begun) - 1 == fails_in:
            raise UserError("a broken run")
        return (math.log10(rate) + 2) ** 2

    return conf_of, train, begun


def run(place: Path, *, trials: int = 6, **fate: int) -> list[str]:
    search, _, _ = begin(*SPACE)
    conf_of, train, begun = trained(place, **fate)
    study.run(search, trials, conf_of, train, lambda text: None)
    return begun


def test_words_and_space_are_told_apart() -> None:
    search, trials, lines = begin(*SPACE)
    assert trials == 6
    assert search.space == {"optim.lr": "tag(log,interval(1e-4,1e-1))", "model": "rwkv4,rwkv7"}
    assert search.fixed == ["group=g", "trainer.max_steps=3"]
    assert [line.words for line in lines] == [
        [*search.fixed, f"optim.lr={rate}", f"model={model}"]
        for rate, model in (("0.0001", "rwkv4"), ("0.1", "rwkv4"), ("0.0001", "rwkv7"))
    ]


def test_a_text_with_commas_is_one_value_of_a_study() -> None:
    keep, take = "checkpoint.keep=last:2,best:1", "take=weights,optimizer"
    search, _, _ = begin("seed=0,1", "from=first", keep, take)
    assert search.space == {"seed": "0,1"} and {keep, take} <= {*search.fixed}
    search, _, _ = begin("from=first", "take='weights,optimizer',weights")
    assert search.distributions()["take"].choices == ("'weights,optimizer'", "weights")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(1,10)", of.FloatDistribution(1, 10)),
        ("interval(0.5,1)", of.FloatDistribution(0.5, 1)),
        ("tag(log,interval(1e-4,1e-2))", of.FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(2,9))", of.IntDistribution(2, 9)),
        ("range(2,9,3)", of.IntDistribution(2, 8, step=3)),
        ("a,b,c", of.CategoricalDistribution(["a", "b", "c"])),
        ("range(0.1,0.3,0.1)", of.CategoricalDistribution(["0.1", "0.2"])),
        ("range(3,1,-1)", of.CategoricalDistribution(["3", "2"])),
        ("choice(1,2)", of.CategoricalDistribution(["1", "2"])),
    ],
)
def test_hydras_grammar_is_what_optuna_draws_from(text: str, expected: Any) -> None:
    override = parsed(f"key={text}")
    assert override is not None
    assert distribution(override) == expected


def test_a_study_is_continued_and_nothing_is_repeated(tmp_path: Path) -> None:
    """Killed in its third trial, it ends in the trials of one that was not."""
    straight = run(tmp_path / "a")
    assert straight == [f"trial-{number}" for number in range(6)]
    with pytest.raises(Killed):
        run(tmp_path / "b", dies_in=2)
    content = json.loads((tmp_path / "b/g/study.json").read_text())
    states = [trial["state"] for trial in content["trials"]]
    assert states == ["complete", "complete", "running"]
    assert run(tmp_path / "b") == straight[2:]  # the same trial, and those that were left
    assert (tmp_path / "a/g/study.json").read_text() == (tmp_path / "b/g/study.json").read_text()
    assert run(tmp_path / "b") == []
    assert run(tmp_path / "b", trials=7) == ["trial-6"]


def test_a_failed_trial_is_told_and_tried_again(tmp_path: Path) -> None:
    run(tmp_path, fails_in=1)
    trials = json.loads((tmp_path / "g/study.json").read_text())["trials"]
    assert (trials[1]["state"], trials[1]["reason"]) == ("failed", "a broken run")
    assert run(tmp_path) == ["trial-1"]
    trials = json.loads((tmp_path / "g/study.json").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 6


def test_a_crashed_trial_does_not_end_the_study(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    search, _, _ = begin(*SPACE)
    conf_of, train, begun = trained(tmp_path)

    def crash(conf: Any) -> float:
        value: float = train(conf)
        if len(begun) == 2:
            raise ZeroDivisionError("a bug")
        return value

    assert study.run(search, 3, conf_of, crash, lambda text: None) == 1
    assert "a bug" in capfd.readouterr().err
    trials = json.loads((tmp_path / "g/study.json").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "failed", "complete"]
    assert trials[1]["reason"] == "ZeroDivisionError: a bug"


def test_a_signal_between_two_trials_ends_as_one_within_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    search, _, _ = begin(*SPACE)
    conf_of, train, begun = trained(tmp_path)

    def propose(*args: Any) -> list[str]:
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(*args)

    inner = study.propose
    with monkeypatch.context() as patched:
        patched.setattr(study, "propose", propose)
        with pytest.raises(Preempted) as stopped:
            study.run(search, 4, conf_of, train, lambda text: None)
    assert stopped.value.code == STOPPED and "the same command goes on" in caplog.text
    assert not (tmp_path / "g/lock").exists()
    assert study.run(begin(*SPACE)[0], 4, conf_of, train, lambda text: None) == 0
    assert len(begun) == 4


def test_a_large_seed_is_a_seed() -> None:
    search, _, _ = begin(*SPACE, "hydra.sweeper.seed=999999999")
    assert propose(search, 7)


def test_two_processes_do_not_run_one_study(tmp_path: Path) -> None:
    """A lock of the kernel's: another process has it, this one is refused."""
    run(tmp_path, trials=1)
    code = (
        "import sys, pathlib\n"
        "from training.run_folder.folder import RunFolder\n"
        "from training.run_folder.lock import owned\n"
        "with owned(RunFolder(pathlib.Path(sys.argv[1]))):\n"
        "    print('mine', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "g")]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with pytest.raises(UserError, match="is being worked on by"):
            run(tmp_path, trials=2)
        other.communicate("")


@pytest.mark.parametrize(
    "change",
    [
        {"value": "abc"}, {"value": None}, {"value": True}, {"value": [1]}, {"words": None},
        {"words": "abc"}, {"words": ["optim.lr=5", "model=rwkv4"]}, {"words": ["optim.lr=0.01"]},
        {"words": ["optim.lr=x", "model=rwkv4"]}, {"words": ["optim.lr=0.01", "model=gpt"]},
        {"words": ["optim.lr=0.01", "runs_dir=/elsewhere"]}, {"state": "done"}, {"number": 1},
        {"reason": 3}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_trial_that_is_none_of_the_search_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    run(tmp_path, trials=1)
    path = tmp_path / "g/study.json"
    content = json.loads(path.read_text())
    content["trials"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"is no study .* move it away"):
        run(tmp_path, trials=2)


def test_a_study_has_no_configuration_to_print(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["-m", "hydra/sweeper=optuna", "group=g", "seed=1,2", "--cfg", "job"]
    done = run_script(capfd, "train", *words)
    assert done.status == 2 and "no configuration to print" in done.err


def test_every_value_is_checked_before_the_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-m", "hydra/sweeper=optuna", "group=g", "optim.schedule=cosine,lienar"]
    done = run_script(capfd, "train", *words)
    assert done.status == 2 and "did you mean 'linear'?" in done.err
    assert not Path("runs").exists()


def test_proposals_follow_from_seed_number_and_finished_trials(tmp_path: Path) -> None:
    search, _, _ = begin(*SPACE)
    assert propose(search, 3) == propose(search, 3) != propose(search, 4)
    search.seed = 1
    other, _, _ = begin(*SPACE)
    assert propose(search, 3) != propose(other, 3)


def test_the_search_finds_what_is_better(tmp_path: Path) -> None:
    """The best rate of these runs is 1e-2."""
    run(tmp_path, trials=30)
    trials = json.loads((tmp_path / "g/study.json").read_text())["trials"]
    early, late = ([trial["value"] for trial in part] for part in (trials[:10], trials[20:]))
    assert sorted(late)[5] < sorted(early)[5]


def test_another_search_in_the_same_group_is_refused(tmp_path: Path) -> None:
    run(tmp_path, trials=1)
    search, _, _ = begin("optim.lr=interval(1e-4,1e-1)")
    conf_of, train, _ = trained(tmp_path)
    with pytest.raises(UserError, match="of another search"):
        study.run(search, 1, conf_of, train, lambda text: None)
    (tmp_path / "g/study.json").write_text("{}")
    with pytest.raises(UserError, match="is no study"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], "nothing to search"),
        (["optim.lr=1e-3,2e-3", "name=a"], "would name every trial"),
        (["optim.lr=1e-3,2e-3", "hydra.sweeper.n_trials=0"], "expected a whole number"),
        (["optim.lr=1e-3,2e-3", "hydra.sweeper.n_jobs=2"], "a study takes"),
        (["optim.lr=1e-3,2e-3", "hydra/sweeper/sampler=grid"], "choose one of tpe, random"),
        (["optim.lr=tag(log,interval(0,1))"], "cannot be searched"),
        (["optim.lr=interval(1)"], "cannot be read"),
        (["seed=range(1,5,0)"], "cannot be searched"),
        (["model=glob(rwkv4*)"], "cannot be searched"),
        (["seed=1,2", "hydra.sweeper.seed=" + "9" * 4400], "expected a whole number"),
        (["seed=1,2", "group=null"], "needs group="),
        (["seed=choice(1)"], r"'seed=choice\(1\)' has one value, .*: write seed=1"),
        (["seed=0,1", "optim.lr=1e-3,1e-3"], "'optim.lr=1e-3,1e-3' has one value"),
        (["optim.lr=interval(1e-3,1e-3)"], "has one value"),
        (["optim.lr=interval(1e-4,1e-3)", "optim.lr=1e-3"], "optim.lr is searched, and given once"),
    ],
)
def test_a_bad_line_is_refused(words: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        begin(*words)


def test_no_group_and_no_multirun() -> None:
    words = ["hydra/sweeper=optuna", "optim.lr=1e-3,2e-3"]
    with pytest.raises(UserError, match="needs group="):
        study.begin(Line(words, ["--multirun"]))
    with pytest.raises(UserError, match="add -m"):
        study.begin(Line(words))


def test_real_runs_with_a_median(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The whole line: four tiny trainings, of which a bad one is pruned."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("alpha beta gamma delta " * 300)
    words = [
        "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra/sweeper/sampler=random",
        "hydra.sweeper.seed=3", "optim.lr=0.01,0.0", "optim.final_lr=0", "group=g",
        "model.size=tiny", "model.n_layer=1", "data=text", "data.paths=[text.txt]",
        "data.tokenizer=bytes", "data.length=16", "data.val_fraction=0.2", "optim.warmup_steps=1",
        "trainer.max_steps=8", "trainer.val_check_interval=4", "training.prune=median",
        "wandb.mode=disabled", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu",
    ]  # fmt: skip
    done = run_script(capfd, "train", *words)
    assert done.status == 0, done.err
    trials = json.loads(Path("runs/g/study.json").read_text())["trials"]
    steps = [
        json.loads(Path(f"runs/g/trial-{number}/summary.json").read_text())["steps"]
        for number in range(4)
    ]
    assert [trial["state"] for trial in trials] == [
        "pruned" if count == 4 else "complete" for count in steps
    ]
    assert "runs/g/study.json: 4 trials, the best first\n  trial-" in done.out
    again = run_script(capfd, "train", *words)
    assert again.status == 0 and "nothing to do" not in again.err  # not even looked at
