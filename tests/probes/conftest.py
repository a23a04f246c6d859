import pytest

from probes import child


@pytest.fixture(autouse=True, scope="session")
def _warm_server():
    """Children start from a server that has torch and the models, as in a sweep."""
    child.preload(["probes.measure", "models.rwkv4", "models.transformer", "tests.probes.works"])
