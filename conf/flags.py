"""What of Hydra's own a command line may use. The rest could name other people's code or files."""

from __future__ import annotations

import re

FLAGS = re.compile(r"-m|--multirun|-h|--help|--hydra-help|-c|--cfg(=.*)?|--resolve|-i|--info(=.*)?")
HYDRA = re.compile(r"hydra(/launcher=\w+|\.(verbose|launcher\.[a-z]\w*|sweeper\.max_\w+)=[^{$]*)")


def flag_problems(argv: list[str]) -> list[str]:
    """Flags that are none of ours. Some of Hydra's own would load other people's code."""
    flags = [word for word in argv if word.startswith("-")]
    return [
        f"{flag!r} is not a flag of this script: --help lists what can be set"
        for flag in flags
        if not FLAGS.fullmatch(flag)
    ]


def hydra_problem(word: str) -> list[str]:
    """What is wrong with an override of a key of Hydra's."""
    if HYDRA.fullmatch(word):
        return []
    return [f"{word!r}: of Hydra's own keys only its launcher's can be set"]
