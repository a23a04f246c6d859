"""The drawn errors have the size of the true ones."""

import numpy as np
import numpy.typing as npt
import pytest

from probes.analysis import bootstrap
from probes.analysis.bootstrap import (
    centre,
    centres,
    errors,
    grouped,
    in_several_processes,
    process_errors,
    scatter,
    unhit,
)

LENGTHS = tuple(2**k for k in range(5, 15))


def drawn(
    processes: int, repeats: int, within: float, between: float, seed: int = 0
) -> dict[int, list[list[float]]]:
    """Log-normal samples about 1, grouped."""
    rng = np.random.default_rng(seed)
    shape = (len(LENGTHS), processes)
    luck = between * rng.standard_normal((*shape, 1))
    values = np.exp(luck + within * rng.standard_normal((*shape, repeats)))
    return dict(zip(LENGTHS, values.tolist(), strict=True))


def test_a_point_is_the_lower_quartile_of_the_lower_quartiles_of_its_processes() -> None:
    processes = [[1, 2, 9], [3, 3, 3, 90], [4, 5, 6, 7, 70]]
    assert centre(processes) == (1.5 + 3) / 2
    assert centre(dict(enumerate(processes))) == centre(processes)
    assert centres({16: processes, 8: [[7]]}, np.array([8.0, 16.0])).tolist() == [7, 2.25]


def test_lengths_are_ordered_and_kept_to_the_window() -> None:
    lengths, groups = grouped({64: [[1.0]], 16: [[2.0, 3.0]], 32: [[4.0], [5.0]], 8: []}, (8, 32))
    assert lengths.tolist() == [16, 32]
    assert [[len(one) for one in point.values()] for point in groups] == [[2], [1, 1]]
    assert not in_several_processes(groups)
    with pytest.raises(ValueError, match="length 16 must be positive"):
        grouped({16: [[1.0], [-1.0]]})


@pytest.mark.parametrize("processes", [2, 5])
@pytest.mark.parametrize("repeats", [1, 4, 5])
@pytest.mark.parametrize(("within", "between"), [(0.01, 0.03), (0.03, 0.0), (0.02, 0.02)])
def test_errors_are_as_large_as_the_true_ones(
    processes: int, repeats: int, within: float, between: float
) -> None:
    """The variance drawn from samples, over many of them, against that of fresh samples."""
    settings = (processes, repeats, within, between)
    found, true = [], []
    for seed in range(40):
        samples = drawn(*settings, seed=seed)
        lengths, groups = grouped(samples)
        noise = errors(groups, np.random.default_rng(seed))
        found.append(noise.var())
        true.append(np.log(centres(samples, lengths)).var(ddof=1))
    assert 0.8 < np.sqrt(np.mean(found) / np.mean(true)) < 1.3


def test_without_two_values_there_are_no_errors() -> None:
    assert errors(grouped(drawn(1, 1, 0.1, 0.1))[1], np.random.default_rng(0)) is None


def test_equal_values_have_no_error() -> None:
    noise = errors(grouped({8: [[2.0], [2.0]], 16: [[3.0], [3.0]]})[1], np.random.default_rng(0))
    assert not noise.any()


def test_unequal_numbers_of_processes_and_repeats_are_taken() -> None:
    samples = drawn(3, 4, 0.01, 0.03)
    samples[32] = [samples[32][0][:2], samples[32][1]]
    noise = errors(grouped(samples)[1], np.random.default_rng(0))
    assert noise.shape == (2000, len(LENGTHS))
    assert noise[:, 0].std() > noise[:, 1].std()


def test_scatter_is_what_noise_does_not_explain() -> None:
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.standard_normal((2000, 50))
    residuals = 0.05 * rng.standard_normal(50)
    assert scatter(residuals, 48, noise, rng).std() == pytest.approx(0.05, rel=0.2)
    assert scatter(residuals / 50, 48, noise, rng).std() < 1e-3
    assert not scatter(residuals, 0, noise, rng).any()


def logs(samples: dict[int, list[list[float]]]) -> list[npt.NDArray[np.float64]]:
    return [np.log([[bootstrap.typical(r)] for r in samples[length]]) for length in LENGTHS]


def test_a_burst_is_left_out_and_widens_nothing() -> None:
    """A fifth of the processes are up to three times as slow, at every length one."""
    points = logs(drawn(5, 3, 0.01, 0.01))
    quiet = process_errors(points, np.random.default_rng(0)).std(axis=0)
    for place, point in enumerate(points):
        point[place % 5] += np.log(1.2 + 0.2 * place)
    kept = unhit(points)
    assert [len(point) for point in kept] == [4] * len(LENGTHS)
    found = process_errors(points, np.random.default_rng(0)).std(axis=0)
    assert (found < 2 * quiet).all()


def test_where_bursts_cannot_be_told_the_point_alone_is_wide() -> None:
    """Two of three processes are slow, so that the quartile is nobody's."""
    points = logs(drawn(3, 3, 0.01, 0.01))
    points[4][1:] += np.array([[0.5], [0.7]])
    assert [len(point) for point in unhit(points)] == [3] * 4 + [0] + [3] * 5
    found = process_errors(points, np.random.default_rng(0)).std(axis=0)
    wrong = bootstrap.contrast(points[4]) - points[4][0, 0]
    assert 2 * found[4] > wrong
    assert np.delete(found, 4).max() < 0.05


def test_what_slows_both_models_of_a_process_cancels() -> None:
    rng = np.random.default_rng(0)
    points = [np.repeat(rng.standard_normal((4, 1)), 2, axis=1) for _ in range(6)]
    assert not process_errors(points, rng).any()
    assert [bootstrap.contrast(point) for point in points] == [0] * 6


def test_a_burst_on_top_of_a_drift_is_left_out() -> None:
    """The quartiles of the two are then those of different processes."""
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 0.2, 3)[:, None]
    points = [drift + 0.002 * rng.standard_normal((3, 2)) for _ in range(6)]
    points[2][0, 0] += 1
    assert bootstrap.contrast(points[2]) > 0.05
    kept = unhit(points)
    assert [len(point) for point in kept] == [3, 3, 2, 3, 3, 3]
    assert abs(bootstrap.contrast(kept[2])) < 0.01
