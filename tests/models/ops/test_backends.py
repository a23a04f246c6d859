"""Which back end runs, what is said about it, and what happens where one cannot be built."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from models.ops import backends

CPU = torch.device("cpu")
ROOT = Path(backends.__file__).parents[2]


def test_report_names_every_back_end() -> None:
    report = backends.report()
    assert list(report) == ["reference", "cpu", "cuda"] and report["reference"] == "ready"


def test_auto_takes_what_the_report_calls_ready() -> None:
    ready = backends.report()["cpu"] == "ready"
    assert backends.resolve("wkv4", "auto", CPU) == ("cpu" if ready else "reference")


def test_the_reference_is_always_there() -> None:
    for device in ("cpu", "cuda", "mps"):
        assert backends.resolve("wkv4", "reference", torch.device(device)) == "reference"


@pytest.mark.parametrize(
    ("backend", "device", "message"),
    [
        ("gpu", "cpu", "expected one of auto, reference, cpu, cuda"),
        ("cuda", "cpu", "needs tensors on cuda, they are on cpu"),
        ("cpu", "cuda", "needs tensors on cpu, they are on cuda"),
    ],
)
def test_impossible_requests(backend: str, device: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backends.resolve("wkv4", backend, torch.device(device))


WITHOUT_KERNELS = """
import torch
from core.errors import UserError
from models.ops.wkv import wkv4
w, u, k, v = -torch.ones(3), torch.zeros(3), torch.randn(1, 40, 3), torch.randn(1, 40, 3)
for _ in range(3):
    y, _ = wkv4(w, u, k, v)
assert torch.equal(y, wkv4(w, u, k, v, backend="reference")[0])
try:
    wkv4(w, u, k, v, backend="cpu")
except UserError as error:
    print(error)
"""
BROKEN = "#!/bin/sh\necho 'fatal error: out of luck' >&2\nexit 1\n"


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [(None, r"no C++ compiler found"), (BROKEN, "fatal error: out of luck")],
    ids=["no compiler", "a failing compiler"],
)
def test_one_line_of_notice_and_the_reference_goes_on(
    tmp_path: Path, compiler: str | None, reason: str
) -> None:
    if compiler:
        (tmp_path / "g++").write_text(compiler)
        (tmp_path / "g++").chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERNELS],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    (notice,) = [line for line in result.stderr.splitlines() if "chunked reference" in line]
    assert reason in notice
    assert "backend='cpu' cannot work here" in result.stdout and reason in result.stdout


def test_the_reference_on_a_gpu_is_loud_or_refused(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loud in a training, an error where it would be measured; asked for by name it is neither."""
    monkeypatch.setattr(backends, "why_not", lambda *_: "cuda-core is not installed")
    monkeypatch.setattr(backends, "_refuses", False)
    backends._notice.cache_clear()
    gpu = torch.device("cuda")
    assert backends.resolve("wkv7", "auto", gpu, 64) == "reference"
    (said,) = caplog.records
    assert "NO KERNELS ON THIS GPU" in said.message and "cuda-core is not" in said.message
    backends.refuse_reference_on_gpu()
    with pytest.raises(UserError, match=r"wkv7 has no kernels to measure.*model\.wkv=reference"):
        backends.resolve("wkv7", "auto", gpu, 64)
    assert backends.resolve("wkv7", "reference", gpu, 64) == "reference"
    assert backends.resolve("wkv7", "auto", CPU, 64) == "reference"
    assert backends.resolve("step", "auto", gpu) == "reference"  # which has kernels on CPUs only
    backends._notice.cache_clear()
