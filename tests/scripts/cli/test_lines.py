"""What people type: flags anywhere, paths as they are, Hydra's grammar, other people's words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conf import schema
from core.errors import UserError
from scripts.cli.arguments import keys, quoted
from scripts.cli.check import examine, problems_of, read
from scripts.cli.hydra_flags import Line, parse
from scripts.cli.jobs import compose_jobs
from tests.scripts.commands import run_script

Capture = pytest.CaptureFixture[str]
TRAIN = "train"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.paths=[~/books/*.txt]"], ["data.paths=['~/books/*.txt']"]),
        (["data.paths=book.txt"], ["data.paths=[book.txt]"]),
        (["data.paths=[a b.txt,~/c.txt]"], ["data.paths=[a b.txt,'~/c.txt']"]),
        (["resume=epoch=3.ckpt"], ["resume='epoch=3.ckpt'"]),
        (["name=1e3"], ["name='1e3'"]),
        (["runs_dir='my runs'"], ["runs_dir='my runs'"]),
        (["group=null"], ["group=null"]),
        (["name=lr${optim.lr}"], ["name=lr${optim.lr}"]),
        (["optim.lr=1e-3"], ["optim.lr=1e-3"]),
        (["take=weights,optimizer"], ["take='weights,optimizer'"]),
        (["take='weights,optimizer',weights"], ["take='weights,optimizer',weights"]),
        (["checkpoint.keep='last:1,best:2'"], ["checkpoint.keep='last:1,best:2'"]),
    ],
)
def test_paths_and_names_are_taken_as_typed(words: list[str], expected: list[str]) -> None:
    assert quoted(TRAIN, words) == expected


def test_one_number_is_a_list_of_one() -> None:
    assert quoted("probe", ["lengths=64"]) == ["lengths=[64]"]
    assert quoted("report", ["runs=runs/x"]) == ["runs=[runs/x]"]


@pytest.mark.parametrize(
    ("script", "words", "start"),
    [
        ("probe", ["lengths=64,128"], "'lengths=64,128': several values of one list go in "
         "brackets: lengths=[64,128]"),
        (TRAIN, ["trainer.precision=bf16"], "trainer.precision='bf16': not one of its values; did "
         "you mean 'bf16-mixed'?"),
        (TRAIN, ["wandb.mode=off"], "wandb.mode='off': not one of its values; did you mean "
         "'disabled'?"),
        (TRAIN, ["optim.learning_rate=1"], "unknown key 'optim.learning_rate'; did you mean "
         "'optim.lr'?"),
        (TRAIN, ["-m", "optim.lr=interval(1e-4,1e-2)"], "'optim.lr=interval(1e-4,1e-2)': an "
         "interval has no values to run one after the other"),
        (TRAIN, ["-m", "optim.lr=tag(a,interval(1e-4,1e-2))"], "'optim.lr=tag(a,interval("),
        (TRAIN, ["-m", "optim.lr=tag(x)"], "'optim.lr=tag(x)': "),
        (TRAIN, ["-m", "optim.lr=tag(a,1e-3)"], "'optim.lr=tag(a,1e-3)': tag() does not take these "
         "values; write the values themselves, as in optim.lr=A,B"),
        (TRAIN, ["name=["], "'name=[' is not of the form key=value"),
        ("probe", ["-m", "seed=0,1"], "seed= cannot be swept: probe.py measures all models"),
        ("probe", ["-m", "vocab_size=300,400"], "vocab_size= cannot be swept: probe.py measures"),
        (TRAIN, ["--cfg=nothing"], "'--cfg=nothing': write --cfg with one of job, hydra, all"),
        ("runs", ["tre"], "'tre': the word is `tree`; others are of the form key=value"),
        (TRAIN, ["hydra/launcher=nothing"], "hydra/launcher=nothing: no such launcher"),
    ],
)  # fmt: skip
def test_a_message_that_helps(script: str, words: list[str], start: str) -> None:
    (problem,) = problems_of(script, words)
    assert problem.startswith(start)


@pytest.mark.parametrize(
    "words",
    [
        ["model=glob(rwkv*)"],
        ["seed=range(0,3)"],
        ["seed=shuffle(1,2)"],
        ["seed=sort(tag(t,choice(2,1)))"],
        ["optim.lr=1e-3,3e-3", "name=lr${optim.lr}"],
    ],
)
def test_what_the_basic_sweeper_can_do(words: list[str]) -> None:
    assert problems_of(TRAIN, ["-m", *words]) == []


def test_jobs_of_one_folder_are_refused() -> None:
    (problem,) = problems_of(TRAIN, ["-m", "optim.lr=1e-3,3e-3", "name=a"])
    assert problem.startswith("name=a would name every run of optim.lr")
    (problem,) = problems_of(TRAIN, ["-m", "seed=1,1"])
    assert problem.startswith("2 jobs would have the folder runs/rwkv4-5m-")


def test_what_hydra_would_end_in_is_refused() -> None:
    wrong = {
        "model@x=rwkv4": "'model@x=rwkv4': a group has one place; write model=rwkv4",
        "model@=rwkv4": "'model@=rwkv4': a group has one place; write model=rwkv4",
        "hydra.verbose=1": "hydra.verbose=1: expected true, false, or names of loggers",
        "hydra.verbose=[1]": "hydra.verbose=[1]: expected true, false, or names of loggers",
        "hydra.verbose=choice(true)": "'hydra.verbose=choice(true)': Hydra's own keys hold for all "
        "runs: give one value",
        "hydra.verbose=true,false": "'hydra.verbose=true,false': Hydra's own keys hold for all "
        "runs: give one value",
        "hydra.launcher.foo=1": "unknown key 'hydra.launcher.foo' of hydra/launcher=basic, which "
        "has none: choose a launcher that has it",
        "hydra.launcher.a=[[1]]": "unknown key 'hydra.launcher.a' of hydra/launcher=basic, which "
        "has none: choose a launcher that has it",
        "hydra.sweeper.max_batch_size=0": "hydra.sweeper.max_batch_size=0: must be at least 1",
        "hydra.sweeper.max_batch_size=abc": "hydra.sweeper.max_batch_size=abc: expected an integer",
        "hydra.sweeper.max_foo=1": "unknown key 'hydra.sweeper.max_foo'; did you mean "
        "'hydra.sweeper.max_batch_size'?",
        "experiment=null,demo": "experiment=null: beside other values of experiment= there can be "
        "no null",
    }
    assert problems_of(TRAIN, ["-m", *wrong]) == [*wrong.values()]


def test_an_unknown_sweeper_is_all_that_is_told() -> None:
    words = ["hydra.sweeper.n_trials=2", "data=text", "data.paths=[a]", "optim.lr=interval(1,2)"]
    (problem,) = problems_of(TRAIN, ["-m", "hydra/sweeper=optun", *words])
    assert "no such sweeper is installed here; did you mean optuna?" in problem
    (problem,) = problems_of(TRAIN, ["-m", "hydra/sweeper=nevergrad", *words])
    assert "no such sweeper" in problem and "did you mean" not in problem


@pytest.mark.parametrize(
    ("words", "others"),
    [
        (["data=txt", "data.paths=[a]"], []),
        (["experiment=dmo", "data.paths=[a]", "model.n_positions=3"], []),
        (["model=rwkv9", "model.head_size=3", "optim.lr=x"], ["optim.lr=x: expected a number"]),
        (["data=txt", "model=gpt", "model.n_positions=8", "data.length=0", "data.lenght=1"],
         ["unknown key 'data.lenght'", "data.length=0: must be at least"]),
    ],
)  # fmt: skip
def test_nothing_is_judged_by_the_default_of_an_unknown_group(
    words: list[str], others: list[str]
) -> None:
    group, value = words[0].split("=")
    first, *rest = problems_of(TRAIN, words)
    assert first.startswith(f"{group}={value}: no such {group}")
    assert len(rest) == len(others)
    for problem, start in zip(rest, others, strict=True):
        assert problem.startswith(start)


def test_keys_are_those_of_the_launcher_that_was_chosen() -> None:
    words = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_mn=3"]
    (problem,) = problems_of(TRAIN, ["-m", *words])
    assert problem.endswith("did you mean 'hydra.launcher.timeout_min'?")


def test_flags_that_hydra_has_no_use_for_together() -> None:
    assert parse(["--resolve"]).problems == ["--resolve says how --cfg prints: add --cfg job"]
    (problem,) = parse(["-m", "--info"]).problems
    assert problem == "--info is about one configuration: leave out --multirun"


def test_what_hydra_takes_is_let_through() -> None:
    words = [
        "experiment=null",
        "hydra.verbose=[crossover]",
        "hydra.sweeper.max_batch_size=2",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.name=a",
        "seed=1,2",
    ]
    line = read(TRAIN, ["-m", *words])
    schema.register(TRAIN)
    assert (line.problems or examine(TRAIN, line).problems) == []


def test_an_exception_of_hydra_is_one_message(capfd: Capture) -> None:
    schema.register(TRAIN)
    with pytest.raises(UserError, match=r"Hydra makes no .* \(Could not override 'nosuch'\.?\)"):
        compose_jobs(TRAIN, Line(["nosuch=1"]), lambda config: None)
    assert capfd.readouterr() == ("", "")


def test_an_exception_of_a_job_is_no_mistake_of_the_line() -> None:
    def task(config: object) -> None:
        raise ValueError("a bug")

    schema.register("demo")
    with pytest.raises(ValueError, match="a bug"):
        compose_jobs("demo", Line([]), task)


def test_flags_may_stand_anywhere() -> None:
    line = parse(["model=gpt", "--cfg", "job", "seed=1", "-m", "-i"])
    assert line.words == ["model=gpt", "seed=1"]
    assert line.flags == ["--cfg=job", "--multirun", "--info=all"]


def test_the_configuration_is_shown(capfd: Capture) -> None:
    done = run_script(capfd, TRAIN, "model=gpt", "--cfg", "job")
    assert done.status == 0 and "target: models.gpt.GPT" in done.out
    done = run_script(capfd, TRAIN, "-m", "--cfg", "job", "seed=3,4")
    assert done.status == 0 and done.out.count("seed: 3") == done.out.count("seed: 4") == 1


def test_a_missing_launcher_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hydra._internal.config_loader_impl.ConfigLoaderImpl.get_group_options",
        lambda self, group, *rest, **more: ["basic"],
    )
    (problem,) = problems_of(TRAIN, ["hydra/launcher=submitit_slurm"])
    assert problem.endswith("pip install -e '.[scale]'")


def test_a_wrong_word_is_answered_without_pytorch() -> None:
    code = (
        "import sys; from scripts.cli.check import problems_of;"
        "assert problems_of('train', ['model=rwkv9']) and problems_of('probe', ['lengths=ten']);"
        "assert problems_of('train', ['model.n_layer=20000']);"
        "assert not {'torch', 'lightning', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_help_imports_none_of_the_checks() -> None:
    script = Path(__file__).parents[3] / "scripts" / "train.py"
    code = (
        "import sys, runpy; sys.argv = ['x', 'model=rwkv9', '--help']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'numpy', 'torch', 'scripts.cli.check'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "usage: python" in done.stdout


def test_no_noise_for_a_closed_pipe_or_ascii(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "scripts" / "train.py"
    code = (
        "import os, sys, runpy; r, w = os.pipe(); os.close(r); os.dup2(w, 1);"
        f"sys.argv = ['x', '--help']; runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_cannot_be_written(capfd: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "book.txt").write_text("a quiet river " * 500)
    done = run_script(
        capfd, TRAIN, "model.size=tiny", "data=text", f"data.paths={tmp_path / 'book.txt'}",
        "data.tokenizer=bytes", "data.length=16", "trainer.max_steps=1", "wandb.mode=disabled",
        f"runs_dir={tmp_path / 'file'}", f"data.cache_dir={tmp_path / 'cache'}", "name=a",
    )  # fmt: skip
    assert done.status == 2 and "Traceback" not in done.err
    assert f"{tmp_path / 'file' / 'a'} cannot be written (Not a directory)" in done.err
    assert "choose another runs_dir" in done.err


def test_a_run_can_be_resumed_from_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "first" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (2, 4):
        (folder / f"step-{step:08d}.ckpt").write_text("")
    assert problems_of(TRAIN, ["resume=first", f"runs_dir={tmp_path}"]) == []
    (problem,) = problems_of(TRAIN, ["resume=second", f"runs_dir={tmp_path}"])
    assert problem.endswith("no such checkpoint or run")


def test_a_working_folder_that_is_gone(
    capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = run_script(capfd, "train", "model=gpt")
    assert done.status == 2
    assert done.err == "error: the working folder is gone: change to one that exists\n"


@pytest.mark.parametrize(("old", "new"), schema.RENAMED.items())
def test_keys_are_taken_under_their_old_names(old: str, new: str) -> None:
    kinds = {name: kind for name, kind, _ in keys(schema.TrainConf)}
    assert new in kinds and old not in kinds
    value = "false" if kinds[new] is bool else "7"
    line = read("train", [f"{old}={value}"])
    assert line.words == [f"{new}={value}"] and not line.problems
    assert problems_of("train", ["model.size=tiny", f"{old}={value}"]) == []
