import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core import processes
from probes.measure import isolated
from probes.rows import ERROR, OK, OOM, TIMEOUT
from tests.probes import works

MIB = 1 << 20


def gone(pid: int) -> bool:
    """Whether the process has ended, waiting for it a little."""
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_facts_come_back() -> None:
    outcome = isolated.run(works.tell, ({"a": 1},), 60)
    assert (outcome.status, outcome.error, outcome.facts) == (OK, None, {"a": 1})


@pytest.mark.skipif(processes.START_METHOD != "forkserver", reason="children are not forked here")
def test_the_server_has_no_threads_to_lose_and_children_have_torch_at_once() -> None:
    assert isolated.run(works.count_threads, (), 60).facts == {"child": 1, "server": 1}
    first = isolated.run(works.whether_loaded, ("torch",), 60).facts
    second = isolated.run(works.whether_loaded, ("torch",), 60).facts
    assert first["loaded"] and second["loaded"]
    assert first["pid"] != second["pid"]
    assert first["server"] == second["server"] != os.getpid()


def test_timeout_ends_the_child_and_what_it_started() -> None:
    outcome = isolated.run(works.sleep_with_helper, (), 3.0)
    assert outcome.status == TIMEOUT
    assert outcome.error == "stopped after 3 s"
    assert gone(outcome.facts["child"])
    assert gone(outcome.facts["helper"])


def test_an_exception_is_one_line_and_keeps_the_facts_before_it() -> None:
    outcome = isolated.run(works.fail, ("first\nsecond", False), 60)
    assert (outcome.status, outcome.error) == (ERROR, "ValueError: first")
    assert outcome.facts == {"before": 1}


def test_a_user_error_speaks_for_itself() -> None:
    outcome = isolated.run(works.fail, ("n_head is odd", True), 60)
    assert (outcome.status, outcome.error) == (ERROR, "n_head is odd")


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGKILL, OOM, "memory"), (signal.SIGABRT, ERROR, "SIGABRT")],
)
def test_sudden_death(number: signal.Signals, status: str, word: str) -> None:
    outcome = isolated.run(works.kill_self, (number,), 60)
    assert outcome.status == status
    assert word in outcome.error


def test_leaving_early_is_an_error() -> None:
    outcome = isolated.run(works.leave, (), 60)
    assert outcome.status == ERROR
    assert "exit code 7" in outcome.error


def test_work_that_cannot_be_loaded_is_an_error() -> None:
    class Local:
        pass

    with pytest.raises((AttributeError, TypeError)):
        isolated.run(works.tell, (Local(),), 60)  # fails here, before there is a child
    assert isolated.run(works.fail, (), 60).status == ERROR  # fails there: arguments are missing


@pytest.mark.skipif(sys.platform != "linux", reason="limits are enforced on Linux")
def test_memory_limit() -> None:
    assert isolated.run(works.allocate, (100 * MIB, 200 * MIB), 60).status == OK
    outcome = isolated.run(works.allocate, (300 * MIB, 200 * MIB), 60)
    assert outcome.status == OOM
    assert "memory" in outcome.error


@pytest.mark.skipif(sys.platform != "linux", reason="needs signals and /proc")
def test_ctrl_c_ends_the_child_too(tmp_path: Path) -> None:
    """The interrupt goes to the parent alone; the child's group must not outlive it."""
    started = tmp_path / "pids"
    root = Path(__file__).resolve().parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.probes.works", str(started)],
        cwd=root,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            if started.exists():
                break
            time.sleep(0.05)
        pids = [int(pid) for pid in started.read_text().split()]
        parent.send_signal(signal.SIGINT)
        assert parent.wait(20) != 0
        assert [gone(pid) for pid in pids] == [True, True]
    finally:
        parent.kill()


@pytest.mark.skipif(processes.START_METHOD != "forkserver", reason="nothing is imported ahead")
def test_a_module_that_cannot_be_imported_does_not_take_the_server_along(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (:\n")
    root = Path(__file__).resolve().parents[3]
    program = (
        f"import sys; sys.path[:0] = [{str(root)!r}, {str(tmp_path)!r}]\n"
        "from probes.measure import isolated\n"
        "from tests.probes import works\n"
        "isolated.preload(['broken', 'missing', 'probes.measure.worker'])\n"
        "print(isolated.run(works.tell, ({'a': 1},), 60).status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == OK, done.stderr
