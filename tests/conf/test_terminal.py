"""Ctrl-C and pipes without readers end a script quietly."""

from __future__ import annotations

import pytest

from conf import terminal


def test_ctrl_c_is_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert terminal.run(interrupted) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_without_a_reader_the_status_is_0() -> None:
    def unread() -> int:
        raise BrokenPipeError

    def unread_by_rich() -> int:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904  (as rich does)

    assert terminal.run(unread) == terminal.run(unread_by_rich) == 0
    with pytest.raises(SystemExit):
        terminal.run(lambda: exit(75))
