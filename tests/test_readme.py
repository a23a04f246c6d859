"""The README's commands run as written (with short settings), and its file tree is true."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from conf import schema
from scripts.cli.check import problems_of
from tests.scripts.commands import ONCE, ROOT, run_script, server
from tests.training.runs import write_library

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]

# Added to each command, to make it short and to keep it inside a temporary folder.
SHORT = {
    "train": ["model.size=tiny", "trainer.max_steps=2", "data.length=64", "data.batch_size=2",
              "training.val_windows=2", "data.val_fraction=0.01", "data.vocab_size=320",
              "wandb.mode=disabled"],
    "probe": ["model.size=tiny", "vocab_size=512", "lengths=[16,32,64]", "fixed_tokens=64",
              "repeats=2", "decode_steps=2", "wandb.mode=disabled", *ONCE],
    "report": ["slope_from=16", "slope_to=64", "wandb.mode=disabled"],
    "generate": ["tokens=5"],
    "chat": ["tokens=5"],
    "evaluate": ["data.val_fraction=0.01"],
    "convert": [],
    "prepare": ["data.vocab_size=320", "data.length=64", "data.val_fraction=0.01"],
    "serve": [],
    "doctor": [],
    "runs": [],
    "plan": ["model.size=tiny", "data.vocab_size=512", "data.length=64", "segment=32"],
}  # fmt: skip


LONGER = ("plan.py", "group=kinds", "runs/kinds")
"""Of commands that run in the slow test alone: plans and kinds of attention have tests as well."""


def test_every_line_is_a_command_we_know() -> None:
    assert len(LINES) >= 8
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in LINES:
        words = shlex.split(line)
        if words[0] == "make":
            assert words[1] in targets
        else:
            assert words[0] == "python" and Path(words[1]).stem in SHORT, line


@pytest.mark.parametrize("library", ["some", pytest.param("whole", marks=pytest.mark.slow)])
def test_the_commands_run_in_order(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
) -> None:
    """On some files of the standard library, and on all, with the commands that take longer."""
    if library == "some":
        files = str(write_library(tmp_path / "files"))
        paths = SimpleNamespace(get_path=lambda name: files)
        monkeypatch.setattr("data.readers.stdlib.sysconfig", paths)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    for line in LINES:
        words = shlex.split(line)
        if words[0] == "make" or (library == "some" and any(word in line for word in LONGER)):
            continue
        script = Path(words[1]).stem
        arguments = [word.replace("[runs/", f"[{tmp_path}/") for word in words[2:]]
        arguments += SHORT[script]
        for key in (
            "target=",
            "binidx=",
            "run=first.",
            "tokenizer=runs/",
        ):  # files that commands write
            inside = f"{key.partition('=')[0]}={tmp_path}/{key.partition('=')[2]}".replace(
                "runs/", ""
            )
            arguments = [word.replace(key, inside) for word in arguments]
        if script in ("train", "probe", "generate", "chat", "evaluate", "convert", "runs"):
            arguments.append(f"runs_dir={tmp_path}")
        arguments = [word.replace("out=runs/", f"out={tmp_path}/") for word in arguments]
        if script == "serve":
            with server(*arguments, f"runs_dir={tmp_path}"):
                continue
        if script in ("train", "prepare"):
            arguments.append(cache)
        done = run_script(capfd, script, *arguments)
        assert done.status == 0, f"{line}\n{done.err}"
    assert (tmp_path / "first" / "summary.json").is_file()
    assert (tmp_path / "probe" / "report" / "index.html").is_file()


def test_the_tree_is_true() -> None:
    tree = TEXT.split("## Layout")[1].split("```text\n")[1].split("```")[0]
    folders = [line.split()[0] for line in tree.splitlines()]
    assert all((ROOT / folder).is_dir() for folder in folders)
    present = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and not path.name.endswith("egg-info")
    }
    assert present - {"runs", "__pycache__"} == {folder.split("/")[0] for folder in folders}


PAGES = [
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "benchmarks", ROOT / "cuda")
    for path in sorted(folder.glob("*.md"))
]


def links(page: Path) -> list[Path]:
    """Where the relative links of a page lead."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    return [(page.parent / target).resolve() for target in targets]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for target in links(page) if not target.exists()] == []


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    reached, rest = {index}, [index]
    while rest:
        for target in links(rest.pop()):
            if target.suffix == ".md" and target not in reached:
                reached.add(target)
                rest.append(target)
    assert {page for page in PAGES if "docs" in page.parts} <= reached


DATED = ("log.md", "benchmarks")
"""Records whose commands are those of their commit."""
COMMAND = re.compile(
    r"^(?:srun |torchrun [^`]*? )?python (?:-m )?((?:scripts|benchmarks)/\w+\.py)(.*)"
)


def commands() -> list[tuple[Path, str, list[str]]]:
    """Commands in blocks and in backquotes of every page: page, file, words."""
    found = []
    for page in PAGES:
        if page.name in DATED or page.parent.name in DATED:
            continue
        text = page.read_text().replace("\\\n", " ")
        lines = [line.split("  #")[0].strip() for line in text.splitlines()]
        for line in [*lines, *re.findall(r"`([^`\n]+)`", text)]:
            if match := COMMAND.match(line):
                found.append((page, match[1], shlex.split(match[2])))
    return found


@pytest.mark.parametrize(
    ("page", "file", "words"), commands(), ids=lambda value: getattr(value, "stem", None)
)
def test_every_command_is_one_that_would_start(
    page: Path, file: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its script is there, and its words are right, but for files they name."""
    path = ROOT / file
    assert path.is_file(), file
    script = path.stem
    if script not in schema.SCRIPTS or "--help" in words:
        return
    assert file == schema.script_path(script)
    monkeypatch.chdir(tmp_path)
    problems = problems_of(script, words)
    missing = ("does not exist", "no such", "matches no file", "DeepSpeed", "no CUDA", "memory")
    assert [one for one in problems if not any(word in one for word in missing)] == []
