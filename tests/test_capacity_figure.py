"""Deletion capacity as a picture: the curves are the numbers, and stay within the bound."""

import numpy as np
import pytest
import torch

from erode.accounting import deletion_capacity, newton_capacity_rate
from erode.capacity_figure import FittedHead, capacity_figure
from erode.pictures import save_figure
from erode.ridge import HeadPixels, RidgeObjective, minimise


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    features = 0.99 * torch.nn.functional.normalize(torch.randn(200, 4), dim=1)
    targets = torch.nn.functional.one_hot((features @ torch.randn(4, 3)).argmax(1), 3).float()
    atoms = HeadPixels(features, targets, torch.full((200,), 1 / 20), torch.full((10,), 20))
    objective = RidgeObjective([atoms], [10], ridge=0.05)
    weights, _, _ = minimise(objective, torch.zeros(3, 4, dtype=torch.float64), 1e-10)
    curvature = torch.linalg.eigvalsh(objective.hessian(weights))
    return FittedHead(
        ridge=0.05, num_classes=3, parameters=12, samples=10, trace=float(curvature.sum()), largest=float(curvature[-1])
    )


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 8.0])
def test_a_fitted_head_forgets_at_least_what_the_bound_allows(head, epsilon):
    for samples in (10, 10**4, 10**6):
        assert 0 <= head.bound(epsilon, 1e-7, samples) <= head.capacity(epsilon, 1e-7, samples) <= samples


def test_curves_are_the_capacities_and_rates_they_say(head, tmp_path):
    figure = capacity_figure([head], delta=1e-5, samples=(10**3, 10**6), at=10**5)
    left, right = figure.axes
    curves = {line.get_label(): line.get_data() for line in left.lines}
    x, y = curves["λ = 0.05"]
    assert [head.capacity(1.0, 1e-5, int(n)) for n in x[::8]] == list(np.nan_to_num(y[::8]))
    assert deletion_capacity(1.0, 1e-5, samples=10**6, ridge=0.05, excess_risk=lambda s, r: (
        head.trace * s**2 + head.largest * r**2) / 2) == y[-1]  # fmt: skip
    x, y = next(data for label, data in curves.items() if label.startswith("Newton rate"))
    assert y[-1] == newton_capacity_rate(1.0, 1e-5, samples=int(x[-1]), parameters=12)
    for axis in (left, right):
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
        assert axis.get_xlabel()
        assert "images" in axis.get_ylabel()
    assert save_figure(figure, tmp_path / "capacity.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="at least one fitted head"):
        capacity_figure([])
