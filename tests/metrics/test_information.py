import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import chi2_contingency
from sklearn.metrics import mutual_info_score

from erode.metrics.information import (
    deviance_residuals,
    miller_madow_bias,
    root_interval,
    table_information,
)

TABLES = hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 50))


@given(TABLES)
@settings(deadline=None, max_examples=60)
def test_information_equals_sklearn(table):
    if table.sum() == 0:
        assert table_information(torch.from_numpy(table)) == 0
        return
    expected = table.sum() * mutual_info_score(None, None, contingency=table.astype(float))
    assert float(table_information(torch.from_numpy(table))) == pytest.approx(expected, abs=1e-9)


def test_residuals_are_those_of_the_likelihood_ratio_test():
    table = np.array([[12, 5, 9], [7, 7, 1]])
    residuals = deviance_residuals(torch.from_numpy(table))
    statistic = chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
    assert float(residuals.square().sum()) == pytest.approx(statistic)
    # Expected by hand: 26/41 of the columns 19, 12, 10 in row 1, so 12.05, 7.61, 6.34.
    assert residuals.sign().tolist() == [[-1, -1, 1], [1, 1, -1]]


@given(row=st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
@settings(deadline=None, max_examples=30)
def test_a_single_row_or_column_informs_of_nothing_at_all(row):
    table = torch.tensor([row])
    assert table_information(table) == 0
    assert table_information(table.T) == 0


def test_miller_madow_removes_the_bias_of_independent_draws():
    generator = torch.Generator().manual_seed(0)
    cells = torch.outer(torch.tensor([0.3, 0.7]), torch.tensor([0.2, 0.3, 0.5])).flatten()
    draws = torch.multinomial(cells.expand(4000, 6), 200, replacement=True, generator=generator)
    tables = torch.nn.functional.one_hot(draws, 6).sum(1).view(-1, 2, 3)
    information = table_information(tables)
    assert float(information.mean()) == pytest.approx(1.0, abs=0.06)  # (2-1)(3-1)/2
    assert float((information - miller_madow_bias(tables)).mean()) == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize(("size", "dims"), [(0.0, 1), (0.0, 4), (1.5, 1), (1.5, 4), (6.0, 1), (6.0, 4)])
def test_interval_covers_the_size_of_a_gaussian_mean(size, dims):
    """Coverage at 0, near 0 and far from it, in the model that the bootstrap approaches: r̂ ~ N(r, 1)."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(dims, dtype=torch.float64)
    truth[0] = size
    covered = 0
    for _ in range(400):
        seen = (truth + torch.randn(dims, generator=generator).double())[None]
        low, high = root_interval(seen, seen + torch.randn(400, 1, dims, generator=generator).double())
        covered += bool(low <= size**2 / 2 <= high)
    assert covered / 400 > 0.92


def images_of(rng, shape):
    """Tables ``[..., S, Y]`` of images: a lesion that is mostly found, and false positives that lean on an artefact."""
    lesion, marked = rng.gamma(4, 20, shape), rng.random(shape) < 0.5
    found = rng.binomial(lesion.astype(int) + 1, 0.9)
    beside, on = (rng.poisson(rng.gamma(2, mean / 2, shape)) for mean in (10, 15))
    return torch.tensor(np.stack([beside, found, np.where(marked, on, 0), 0 * on], -1)).view(*shape, 2, 2).double()


def test_interval_covers_the_information_of_few_images():
    """At a nominal 95 %; without the factor for small samples 91 %."""
    images = 12
    rng = np.random.default_rng(0)
    truth = float(table_information(images_of(rng, (200_000,)).mean(0)))
    tables = images_of(rng, (1000, images))
    weights = torch.tensor(rng.multinomial(images, [1 / images] * images, (1000, 200))).double()
    seen = deviance_residuals(tables.mean(1)).flatten(1)
    replicates = deviance_residuals((weights @ tables.flatten(2)).view(1000, 200, 2, 2) / images).flatten(2)
    covered = 0
    for one, resamples in zip(seen, replicates, strict=True):
        low, high = root_interval(one[None], resamples[:, None], images=images)
        covered += bool(low <= truth <= high)
    assert covered / 1000 == pytest.approx(0.945, abs=0.02)


def test_one_image_has_no_interval():
    with pytest.raises(ValueError, match="at least 2"):
        root_interval(torch.ones(1, 4), torch.ones(5, 1, 4), images=1)
