"""`--config-dir`: choices of a user's, and what of them is refused; completion in a shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.cli.check import problems_of
from scripts.cli.config_folder import folder_problems
from tests.scripts.commands import ROOT, run_script

Capture = pytest.CaptureFixture[str]
MINE = """# @package _global_
defaults:
  - override /model: wide
hydra: {sweeper: {params: {optim.lr: "1e-3,2e-3"}}}
name: mine-${optim.lr}
data: {length: 64}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment and a model of its own."""
    place = tmp_path / "it's mine"
    for group in ("experiment", "model"):
        (place / group).mkdir(parents=True)
    (place / "experiment" / "mine.yaml").write_text(MINE)
    ours = (ROOT / "conf" / "model" / "rwkv4.yaml").read_text()
    (place / "model" / "wide.yaml").write_text(ours.replace("name: rwkv4", "name: wide"))
    return place


def test_an_experiment_and_a_model_of_the_users(capfd: Capture, folder: Path) -> None:
    for words in (["+experiment=mine", "--config-dir", str(folder)],
                  [f"--config-dir={folder}", "experiment=mine"]):  # fmt: skip
        done = run_script(capfd, "train", *words, "--cfg", "job")
        assert done.status == 0, done.err
        assert "name: wide" in done.out and "length: 64" in done.out
    sweep = run_script(capfd, "train", "-cd", str(folder), "-m", "+experiment=mine", "--cfg", "job")
    assert "optim.lr=0.001\n" in sweep.out and "optim.lr=0.002\n" in sweep.out
    assert problems_of("train", ["+experiment=demo"]) == []
    (problem,) = problems_of("train", ["-cd", str(folder), "+experiment=mime"])
    assert "did you mean 'mine'" in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hydra: {callbacks: {x: 1}}", "only hydra.sweeper.params"),
        ("defaults: [{override hydra/launcher: mine}]", "for the command line"),
        ("# @package hydra.callbacks.x\na: 1", "only _global_"),
        ("optim: {_target_: os.system}", "could name code"),
        ("model: {target: os.system}", "only classes inside models/"),
        ("callbacks: [{name: evil.py:Class}]", "on the command line alone"),
        ("callbacks: ['evil.py:Class.Inner']", "on the command line alone"),
        ("callbacks: ['evil.p${name}']\nname: 'y:Class'", "on the command line alone"),
        (
            r"hydra: {sweeper: {params: {callbacks: '[evil.py\:A],[]'}}}",
            "on the command line alone",
        ),
        ("hydra: {sweeper: {params: {+callbacks: '[b],[]'}}}", "on the command line alone"),
        ('hydra: {sweeper: {params: {"callbacks=[x.p": "y:A]"}}}', "is no key"),
        ("include_path: tasks", "on the command line alone"),
        ("name: ${oc.env:HOME}", "is no key"),
        ("a: !!python/object/apply:os.system [x]", "not YAML"),
        ("a: [", "not YAML"),
        ("a: &a [*a]", "an anchor or alias"),
        ("- a", "not an object"),
        ("defaults: 5", "is no list"),
    ],
)
def test_what_could_reach_code_or_the_environment_is_refused(
    folder: Path, text: str, message: str
) -> None:
    assert folder_problems(folder) == []
    path = folder / "experiment" / "other.yaml"
    path.write_text(text)
    problems = problems_of("train", ["--config-dir", str(folder), "experiment=mine"])
    assert problems and all(problem.startswith(str(path)) for problem in problems)
    assert any(message in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lr: 1e-3\n", "its keys, as optim, are not taken"),
        ("defaults:\n  - override /model: rwkv7\n", "put that line above all others"),
        ("# mine\n# @package _global_\nseed: 1\n", "first line is not '# @package _global_'"),
        ("# @package _global_\noptim:\n  lrr: 1e-3\n", "unknown key 'optim.lrr'"),
        ("# @package _global_\noptim:\n  lr: abc\n", "optim.lr: Value 'abc' of type 'str'"),
        ("# @package _global_\ndefaults:\n  - none\n", "Could not load 'experiment/none'"),
    ],
)
def test_a_file_that_cannot_be_merged_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "experiment" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text)
    (problem,) = problems_of("train", ["--config-dir", str(tmp_path), "experiment=mine"])
    assert problem.startswith(f"{path}: ") and message in problem


def test_a_file_that_would_not_be_read_is_told(folder: Path) -> None:
    words = ["-cd", str(folder)]
    (folder / "experiment/yours.yml").write_text(MINE)
    (problem,) = problems_of("train", [*words, "experiment=yours"])
    assert problem.endswith(f"no such experiment; {folder}/experiment/yours.yml must end in .yaml")
    copied = folder / "model" / "rwkv4.yaml"
    copied.write_bytes((ROOT / "conf" / "model" / "rwkv4.yaml").read_bytes())
    assert problems_of("train", [*words, "model=rwkv4"]) == []
    copied.write_text("name: other\n")
    (problem,) = problems_of("train", [*words, "model=rwkv4"])
    assert problem == (
        f"{copied}: not read, because conf/model/rwkv4.yaml goes before it: give it another name"
    )


def test_a_file_that_says_nothing_is_taken(folder: Path) -> None:
    (folder / "experiment" / "empty.yaml").write_text("# nothing yet\n---\n")
    assert folder_problems(folder) == []


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    wrong = (f"{tmp_path}/none", str(tmp_path), "x" * 5000, "~nobody/mine", "\0", "/dev/null")
    for words in (["--config-dir"], *(["-cd", place] for place in wrong)):
        (problem,) = problems_of("train", words)
        assert "--config-dir" in problem
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "experiment").symlink_to("/tmp")
    (problem,) = folder_problems(tmp_path / "mine")
    assert "is a link to a folder" in problem


def test_a_shell_completes_keys_and_choices(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = run_script(capfd, "train", "-sc", "install=bash")
    assert installed.status == 0 and "hydra_bash_completion()" in installed.out
    for typed, expected in (("optim.l", "optim.lr="), ("model=rwk", "model=rwkv7")):
        monkeypatch.setenv("COMP_LINE", f"python scripts/train.py {typed}")
        done = run_script(capfd, "train", "-sc", "query=bash")
        assert done.status == 0 and expected in done.out.split()
    assert run_script(capfd, "train", "-sc", "install=cmd").status == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "trainer.log_every_n_steps=5,10"], "give it one value"),
        (["-m", "wandb.mode=offline,disabled"], "give it one value"),
        (["-m", "group=s", "hydra/sweeper=optuna", "checkpoint.best=true,false"], "give it one"),
        (["-m", "group=s", "hydra/sweeper=optuna", "runs_dir=a,b"], "give it one value"),
        (["-m", "hydra/sweeper=nevergrad", "optim.lr=1e-3,2e-3"], "no such sweeper is installed"),
    ],
)
def test_sweeps_that_cannot_be_are_one_message(words: list[str], message: str) -> None:
    (problem,) = problems_of("train", words)
    assert message in problem


FORM = "name: mine\ntarget: models.rwkv4.RWKV4\nsize: tiny\n"
FIELDS = "n_layer: null\nn_embd: null\nn_ffn: null\nwkv: auto\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FORM, "model.sizes: expected each size with its fields"),
        (FORM + "sizes: {tiny: 3}", "model.sizes: expected each size with its fields"),
        (FORM + "sizes: [tiny]", "model.sizes: expected each size with its fields"),
        (FORM + "sizes: {tiny: {n_layer: two, n_embd: 64}}", "model.n_layer=two: expected an inte"),
        (FORM + "sizes: {tiny: {n_layer: 9999, n_embd: 64}}", "model.n_layer=9999: must be at mos"),
        (FORM.replace("size: tiny", "size: null") + "sizes: {}", "model.size has no value"),
        (FORM.replace("target", "class") + "sizes: {}", "model.target=None: expected a name"),
        (FORM.replace("name", "title") + "sizes: {tiny: {}}", "model.name=None: expected a name"),
    ],
)
def test_a_model_of_the_users_without_its_form_is_told(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(f"{text}\n{FIELDS}")
    (problem,) = problems_of("train", ["--config-dir", str(tmp_path), "model=mine"])
    assert problem.startswith(message)


def test_files_that_name_one_another_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    for name, other in (("mine", "other"), ("other", "mine")):
        text = f"# @package _global_\ndefaults: [{other}]\n"
        (tmp_path / "experiment" / f"{name}.yaml").write_text(text)
    (problem,) = problems_of("train", ["--config-dir", str(tmp_path), "experiment=mine"])
    assert problem.endswith("name one another in a circle: mend their defaults")


def test_a_choice_may_have_a_space_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "my file.yaml").write_text("# @package _global_\nseed: -1\n")
    (problem,) = problems_of("train", ["--config-dir", str(tmp_path), "experiment=my file"])
    assert problem == "seed=-1: must be at least 0"
