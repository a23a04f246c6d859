"""Kernels with a fault put into them on purpose: the emulated GPU must notice each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from models.ops.elementwise.fused import native_as_on
from models.ops.wkv import wkv4, wkv5, wkv6, wkv7
from models.ops.wkv7 import cuda as cuda7
from models.ops.wkv7.reference import wkv7_sequential
from tests.emulator.driver import Gpu, WrongKernel, changed
from tests.models.ops.closeness import assert_close
from tests.models.ops.elementwise.cases import case as case_of
from tests.models.ops.elementwise.compare import compare, rounding
from tests.models.ops.wkv4 import cases as cases4
from tests.models.ops.wkv6 import cases as cases6
from tests.models.ops.wkv7 import cases as cases7


class Mutant(NamedTuple):
    """`old` in a file of `cuda/` becomes `new`; some show under the sanitizers alone."""

    fault: str
    file: str
    old: str
    new: str
    sanitized: bool = False


WKV4 = (
    Mutant(
        "a summary is announced before it is written",
        "wkv4/lookback.h",
        "  post(board.summaries + (slot + at.order) * 4 * LANES, mine, lane);\n"
        "  raise(board.posted + slot + at.order, lane);\n",
        "  raise(board.posted + slot + at.order, lane);\n"
        "  post(board.summaries + (slot + at.order) * 4 * LANES, mine, lane);\n",
        sanitized=True,
    ),
    Mutant(
        "one lane raises the flag while others still write",
        "wkv4/gpu.cu",
        "  __threadfence();\n  __syncwarp();\n  if (lane == 0)",
        "  __threadfence();\n  if (lane == 0)",
        sanitized=True,
    ),
    Mutant(
        "a flag orders nothing",
        "wkv4/gpu.cu",
        "gpu::store_release(flag, 1)",
        "atomicAdd(flag, 1u)",
        sanitized=True,
    ),
    Mutant(
        "nobody waits for a flag",
        "wkv4/gpu.cu",
        "while (!value) {",
        "while (false) {",
        sanitized=True,
    ),
    Mutant(
        "warps apply before the first has collected",
        "wkv4/gpu.cu",
        "  if (warp == 0) pass.collect(shared, lane);\n  __syncthreads();\n",
        "  if (warp == 0) pass.collect(shared, lane);\n",
    ),
    Mutant(
        "gradients are added up while warps still compute them",
        "wkv4/gpu.cu",
        "    __syncthreads();    ",  # in a macro
        "",
    ),
    Mutant(
        "segments come in the order of blocks, not of tickets",
        "wkv4/gpu.cu",
        "shared.ticket = atomicAdd(pass.board.ticket, 1u)",
        "shared.ticket = gridDim.x - 1 - blockIdx.x",
    ),
    Mutant(
        "a tile of the last segment is as long as any",
        "wkv4/lookback.h",
        "return clamp(shape.T - segment * SEGMENT - warp * CHUNK, CHUNK);",
        "return CHUNK;",
    ),
    Mutant(
        "the second of two channels exists always",
        "wkv4/lookback.h",
        "count = clamp(s.C - channel, 2);",
        "count = s.C > channel ? 2 : 0;",
    ),
)
WKV6 = (
    Mutant(
        "phases end without a barrier",
        "wkv6/kernels.h",
        "    phase(int(threadIdx.x), own);\n    __syncthreads();\n",
        "    phase(int(threadIdx.x), own);\n",
    ),
    Mutant(
        "outputs are written before all parts are there",
        "wkv6/scan.h",
        "if (OUTPUT) block.each([&](int thread, Registers&) { write(",
        "if (OUTPUT) block.each([&](int thread, Registers&) { if (thread % 2) __syncwarp(); write(",
    ),
    Mutant(
        "tokens behind the last are read",
        "wkv6/scan.h",
        "      if (i < n) {\n        float x = w[",
        "      {\n        float x = w[",
    ),
    Mutant(
        "the last segment goes on behind the end",
        "wkv6/scan.h",
        "met < end && met < shape.chunks(); met++",
        "met < end; met++",
    ),
    Mutant(
        "the correction of rounded decays is left out",
        "wkv6/math.h",
        "where_(w > SLOW, lost - (slow - 1.f), F{})",
        "F{}",
    ),
    Mutant(
        "carried states do not decay",
        "wkv6/scan.h",
        "carried = carried * expf(logs[at * N + key]) + added;",
        "carried = carried + added;",
    ),
    Mutant(
        "a chunk's gradients take the next chunk's adjoint",
        "wkv6/key_gradients.h",
        "*adjoint = adjoints + matrix;",
        "*adjoint = adjoints + matrix + N * N;",
    ),
)
WKV7 = (
    Mutant(
        "phases end without a barrier",
        "wkv7/warp.h",
        "    f(warp, own);\n    __syncthreads();\n",
        "    f(warp, own);\n",
    ),
    Mutant(
        "rows of outputs leave before all lanes have put theirs",
        "wkv7/forward.h",
        "        __syncwarp();\n        write_rows(pass.y",
        "        write_rows(pass.y",
    ),
    Mutant(
        "rows behind the last are read",
        "wkv7/chunk.h",
        "load_eight(rows + (smaller(row, most - 1) * at.stride + c))",
        "load_eight(rows + (row * at.stride + c))",
    ),
    Mutant(
        "two registers of an operand are exchanged",
        "wkv7/warp_mma.h",
        "gpu::multiply_matrices(d.held, a.held, b[2 * half], b[2 * half + 1]);",
        "gpu::multiply_matrices(d.held, a.held, b[2 * half + 1], b[2 * half]);",
    ),
    Mutant(
        "rows of tiles are not aligned",
        "wkv7/chunk.h",
        "constexpr int STRIDE = N + 8;",
        "constexpr int STRIDE = N + 4;",
    ),
    Mutant(
        "a token's own write is read by a",
        "wkv7/products.h",
        "(diagonal ? row - !reads : HALF)",
        "(diagonal ? row : HALF)",
    ),
    Mutant(
        "chunks are never cut into pieces",
        "wkv7/chunk.h",
        "  if (least(fit) == most) return most;\n",
        "  return most;\n",
    ),
    Mutant(
        "segments start from where the next one does",
        "wkv7/launch_map.h",
        "    pass.start += shape.state(job.column, job.segment);\n"
        "    pass.end = at.end == at.T ? pass.end",
        "    pass.start += shape.state(job.column, 0);\n    pass.end = at.end == at.T ? pass.end",
    ),
    Mutant(
        "the gradient of w leaves out the state before the chunk",
        "wkv7/backward.h",
        "for (int i = 0; i < 4; i++) rest += sh.with_state[i][c];",
        "for (int i = 0; i < 3; i++) rest += sh.with_state[i][c];",
    ),
)
WKV7_STEPS = (
    Mutant(
        "the shares of the last token are overwritten",
        "wkv7/steps.cu",
        "        __syncthreads();  // the last token's shares have been added up\n",
        "",
        sanitized=True,
    ),
    Mutant(
        "shares are added up before all warps have told theirs",
        "wkv7/steps.cu",
        "        __syncthreads();\n        add_up(",
        "        add_up(",
    ),
    Mutant(
        "a piece starts from the state before the first",
        "wkv7/steps.cu",
        "state = edges[piece];",
        "state = edges[0];",
    ),
    Mutant(
        "every block leaves its sums in the same place",
        "wkv7/steps.cu",
        "(q * blocks + blockIdx.y) * every",
        "q * blocks * every",
    ),
    Mutant(
        "the gradient of what is removed is that of the token before",
        "wkv7/steps.cu",
        "adjoint.x[i][e] * removed[t][i]",
        "adjoint.x[i][e] * removed[0][i]",
    ),
)
ELEMENTWISE = (
    Mutant(
        "a sum is read before all warps have told theirs",
        "gpu/rows.h",
        "      __syncthreads();\n      all = 0;\n",
        "      all = 0;\n",
    ),
    Mutant(
        "every sum is told in the same place",
        "gpu/rows.h",
        "      turn = 1 - turn;\n",
        "",
        sanitized=True,
    ),
    Mutant(
        "a team sums over its neighbours too",
        "gpu/rows.h",
        "(lanes < WARP ? lanes : WARP) / 2",
        "WARP / 2",
    ),
    Mutant(
        "the last vector of a row is whole",
        "gpu/rows.h",
        "return c < width ? int(width - c < LANES ? width - c : LANES) : 0;",
        "return c < width ? LANES : 0;",
    ),
    Mutant(
        "rows behind the last are added up",
        "gpu/rows.h",
        "at.m.count = row < f.rows ? count : 0;",
        "at.m.count = count;",
    ),
    Mutant(
        "spans leave their sums in the same place",
        "gpu/rows.h",
        "(row * plan.sums + q) * width",
        "q * width",
    ),
    Mutant(
        "a walk does not hear of what comes after it",
        "elementwise/shift.h",
        "for (Index i = 0; i <= rows; i++) {",
        "for (Index i = 0; i <= rows - (t + rows < T); i++) {",
    ),
    Mutant(
        "the last partial sum is left out",
        "elementwise/sums.cu",
        "row < rows; row += BELOW",
        "row < rows - 1; row += BELOW",
    ),
    Mutant(
        "partial sums are halved without a barrier",
        "elementwise/sums.cu",
        "+= board.sums[below + half][column];\n    __syncthreads();\n",
        "+= board.sums[below + half][column];\n",
        sanitized=True,
    ),
)
IN_EVERY_RUN = {
    "spans leave their sums in the same place",
    "one lane raises the flag while others still write",
    "tokens behind the last are read",
    "two registers of an operand are exchanged",
}


def check_wkv4(gpu: Gpu) -> None:
    case = cases4.random_case(1, 700, 3)
    want = cases4.run(functools.partial(wkv4, backend="reference"), case, torch.float64)
    for gpu.seed, gpu.resident in ((2, 3), (3, 2), (0, 1), (1, 1)):
        assert_close(cases4.run(functools.partial(wkv4, backend="cuda"), case), want, 1e-5)


def check_wkv6(gpu: Gpu) -> None:
    case = cases6.random_case(1, 265, 2, 32)
    case = case._replace(w=case.w.clamp(min=-1e-3))  # or nothing of the past is left
    want = cases6.run(functools.partial(wkv6, backend="reference"), case, torch.float64)
    assert_close(cases6.run(functools.partial(wkv6, backend="cuda"), case), want, 1e-5)
    case = cases6.slow_case(1, 5003, 1, 32, constant=True)
    want = cases6.run(functools.partial(wkv5, backend="reference"), case, torch.float64)
    gpu.multiprocessors = 0
    got = cases6.run(functools.partial(wkv5, backend="cuda"), case)
    assert_close(got, want, 2e-5)


def check_wkv7(gpu: Gpu) -> None:
    gpu.multiprocessors = 8
    for length, strong in ((70, True), (4 * 8 * 32 + 5, False)):
        case = cases7.random_case(1, length, 1, 64)
        if strong:
            case.w[:, 50] = -70
            case.w[:, 33:48, :, ::2] = -20
        half = {name: getattr(case, name).bfloat16() for name in ("r", "k", "v", "a", "b")}
        case = case._replace(**half, grad_y=case.grad_y.bfloat16())
        want = cases7.run(wkv7_sequential, case, torch.float64)
        got = cases7.run(functools.partial(wkv7, backend="cuda"), case)
        assert_close(got, want, 1.5e-2)


def check_wkv7_steps(gpu: Gpu) -> None:
    case = cases7.random_case(1, 43, 1, 128)
    want = cases7.run(wkv7_sequential, case, torch.float64)
    assert_close(cases7.run(functools.partial(wkv7, backend="cuda"), case), want, 1e-6)


def check_elementwise(gpu: Gpu) -> None:
    shapes = {
        "rms_norm": (1, 9, 1, 600),
        "delta_keys": (2, 33, 3, 7),
        "token_shift_mix": (2, 70, 1, 9),
    }
    with native_as_on("cuda"):
        for name, shape in shapes.items():
            compare(*case_of(name, shape), rounding(torch.float32))


CHECKS: dict[Callable[[Gpu], None], tuple[Mutant, ...]] = {
    check_wkv4: WKV4,
    check_wkv6: WKV6,
    check_wkv7: WKV7,
    check_wkv7_steps: WKV7_STEPS,
    check_elementwise: ELEMENTWISE,
}
ALL = [
    pytest.param(
        check,
        mutant,
        id=f"{check.__name__[6:]}-{mutant.fault.replace(' ', '_')}",
        marks=() if mutant.fault in IN_EVERY_RUN else pytest.mark.slow,
    )
    for check, mutants in CHECKS.items()
    for mutant in mutants
]


@pytest.mark.slow
@pytest.mark.parametrize("sanitized", [False, True])
@pytest.mark.parametrize("check", CHECKS)
def test_the_kernels_themselves_pass(
    gpu: Gpu, check: Callable[[Gpu], None], sanitized: bool
) -> None:
    gpu.sanitized = sanitized
    check(gpu)


@pytest.mark.parametrize(("check", "mutant"), ALL)
def test_a_fault_is_noticed(
    gpu: Gpu,
    check: Callable[[Gpu], None],
    mutant: Mutant,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu.sanitized = mutant.sanitized
    with (
        changed(monkeypatch, {mutant.file: (mutant.old, mutant.new)}, tmp_path),
        pytest.raises((WrongKernel, AssertionError)),
    ):
        check(gpu)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["_FORWARD", "_BACKWARD"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_too_little_shared_memory_is_noticed(
    gpu: Gpu, table: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less by more than a row's end that is never used; so the plan's bytes are what is needed."""
    plan = getattr(cuda7, table)[dtype.itemsize]
    less = {dtype.itemsize: plan._replace(shared=plan.shared - 48)}
    monkeypatch.setattr(cuda7, table, getattr(cuda7, table) | less)
    case = cases7.random_case(1, 32, 1, 64)
    half = {name: getattr(case, name).to(dtype) for name in ("r", "k", "v", "a", "b", "grad_y")}
    with pytest.raises(WrongKernel, match="nobody owns"):
        cases7.run(functools.partial(wkv7, backend="cuda"), case._replace(**half))
