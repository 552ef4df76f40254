import pytest
import torch
from sklearn.metrics import f1_score

from erode.metrics import RadialDice
from erode.metrics.radial import square_rings


def test_rings_are_squares_around_the_centre():
    rings = square_rings((7, 7), width=1.0, rings=3)
    assert rings[3, 3] == 0
    assert [(rings == r).sum().item() for r in range(3)] == [1, 8, 40]  # the last one holds everything beyond
    even = square_rings((4, 4, 4), width=1.0, rings=9)
    assert [(even == r).sum().item() for r in range(3)] == [8, 56, 0]


@pytest.mark.parametrize("shape", [(20, 31), (9, 24, 8)])
def test_each_ring_is_scikit_learns_dice_of_its_pixels(shape):
    pred, mask = (torch.randint(3, (4, *shape), generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    metric = RadialDice(rings=4, width=3.0)
    metric.update(pred[:2], mask[:2])
    metric.update(pred[2:], mask[2:])
    rings = square_rings(shape, 3.0, 4)
    for r in range(4):
        inside = (rings == r).expand_as(mask)
        expected = f1_score(mask[inside] > 0, pred[inside] > 0)
        assert float(metric.compute()[f"ring_{r}"]) == pytest.approx(expected)


def test_a_model_that_finds_only_the_centre_shows_it():
    mask = torch.ones(1, 40, 40).long()
    pred = torch.zeros_like(mask)
    pred[:, 10:30, 10:30] = 1
    metric = RadialDice(rings=3, width=10.0)
    metric.update(pred, mask)
    values = [float(value) for value in metric.compute().values()]
    assert values[:2] == [1.0, 0.0]
    assert values[2] != values[2]  # no pixel is that far


def test_settings_without_a_ring_are_refused():
    with pytest.raises(ValueError, match="width > 0"):
        RadialDice(width=0)
