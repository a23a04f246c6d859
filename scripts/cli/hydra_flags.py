"""What of Hydra's own a command line may use. The rest could name other people's code or files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

SHELLS = ("bash", "zsh", "fish")
# Flags, their other name, and the values of those that take one (the first is the default).
FLAGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "--multirun": ("-m", ()),
    "--help": ("-h", ()),
    "--hydra-help": ("", ()),
    "--resolve": ("", ()),
    "--cfg": ("-c", ("job", "hydra", "all")),
    "--info": ("-i", ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")),
    "--shell-completion": (
        "-sc",
        tuple(f"{what}={shell}" for what in ("install", "uninstall", "query") for shell in SHELLS),
    ),
}
CONFIG_DIR = ("--config-dir", "-cd")
HYDRA = re.compile(
    r"hydra(/launcher=\w+|/sweeper=basic|\.(verbose|launcher\.[a-z]\w*|sweeper\.max_\w+)=[^{$]*)"
)


@dataclass
class Line:
    """A command line, sorted: Hydra's parser would want every flag after or before every word."""

    words: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    """In their long form; `--cfg=job`."""
    config_dir: Path | None = None
    """A folder with further choices."""
    problems: list[str] = field(default_factory=list)

    def asks(self, flag: str) -> str:
        """The flag with its value if it was given, else nothing."""
        return next((each for each in self.flags if each.partition("=")[0] == flag), "")

    @property
    def multirun(self) -> bool:
        return bool(self.asks("--multirun"))


def parse(argv: list[str]) -> Line:
    """Flags and words of a command line, in any order; flags that are none of ours are problems.

    Some of Hydra's own flags would load other people's code.
    """
    line, rest = Line(), list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            line.words.append(word)
            continue
        given, _, value = word.partition("=")
        if given in CONFIG_DIR:
            value = value or (rest.pop(0) if rest else "")
            if not value or line.config_dir is not None:
                line.problems.append(f"{given} takes one folder: {given} my_conf")
                continue
            line.config_dir = Path(os.path.expanduser(value))  # noqa: PTH111 (which may raise)
            continue
        name = next((long for long, (short, _) in FLAGS.items() if given in (long, short)), None)
        values = FLAGS[name][1] if name else ()
        if name is None or ("=" in word and not values):
            line.problems.append(
                f"{word!r} is not a flag of this script: --help lists what can be set"
            )
            continue
        if values and "=" not in word:
            has_value = bool(rest) and (rest[0] in values or name == "--shell-completion")
            value = rest.pop(0) if has_value else values[0]
        if values and value not in values:
            line.problems.append(f"{word!r}: write {name} with one of {', '.join(values)}")
            continue
        line.flags.append(f"{name}={value}" if values else name)
    if line.asks("--resolve") and not line.asks("--cfg"):
        line.problems.append("--resolve says how --cfg prints: add --cfg job")
    if line.multirun and line.asks("--info"):
        line.problems.append("--info is about one configuration: leave out --multirun")
    return line


def hydra_problem(word: str) -> list[str]:
    """What is wrong with an override of a key of Hydra's."""
    if HYDRA.fullmatch(word):
        return []
    return [f"{word!r}: of Hydra's own keys only its launcher's can be set"]
