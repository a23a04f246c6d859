"""What every test finds ready."""

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


LONGEST = "tests/test_readme.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: at the end one process would wait for the other."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(autouse=True, scope="session")
def _warm_server() -> None:
    """Children start from a server that has torch and the models, as in a sweep.

    There is one server to a process: it is started here, or the first test to need one would
    decide what it has imported, and memory would be measured with other imports in it.
    """
    isolated.preload(PRELOADED)
    if START_METHOD == "forkserver":
        forkserver.ensure_running()
