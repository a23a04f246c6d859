"""What every test finds ready."""

import gc
import sys
from multiprocessing import forkserver

import pytest

from core.processes import START_METHOD
from probes.measure import isolated

PRELOADED = (
    "probes.measure.worker",
    "models.rwkv4",
    "models.transformer",
    "tests.probes.works",
    "tests.models.long_context.span_ranks",
    "scripts.probe",  # children import the script that runs
)
TRAINING = (
    "tests.training.children",
    "tests.training.ranks",
    "torch._dynamo",  # every optimizer imports the compiler, which takes longer than a run
)
"""For children that train; left out where no test that was collected trains in children."""


LONGEST = "tests/test_readme.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: at the end one process would wait for the other."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def pytest_collection_finish() -> None:
    """Leave out what has been imported from every search for garbage: it took a second each time
    that a run failed, which looks for what a traceback still holds."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are written without their pictures, which take most of the time."""
    monkeypatch.setattr("probes.report.figures.draw_all", lambda analysis, folder: [])


@pytest.fixture(autouse=True, scope="session")
def _warm_server() -> None:
    """Children start from a server that has torch and the models, as in a sweep.

    There is one server to a process: it is started here, or the first test to need one would
    decide what it has imported, and memory would be measured with other imports in it.
    """
    trains = any(name in sys.modules for name in TRAINING if name.startswith("tests."))
    isolated.preload((*PRELOADED, *TRAINING) if trains else PRELOADED)
    if START_METHOD == "forkserver":
        forkserver.ensure_running()
