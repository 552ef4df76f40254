import pytest
import torch

from erode.metrics import (
    component_probability,
    foreground_probability,
    mean_probability,
    positive_by_area,
)

CERTAIN = 0.8


def lesion_of(*pixels):
    """Background .9 everywhere, class 1 at .8 on the given pixels of an 8×8 image."""
    probs = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).repeat(1, 1, 8, 8)
    for i, j in pixels:
        probs[0, :, i, j] = torch.tensor([1 - CERTAIN, CERTAIN])
    return probs


def test_only_the_mean_grows_with_the_lesion():
    small, large = lesion_of((0, 0)), lesion_of((0, 0), (0, 1), (1, 0), (1, 1))
    assert mean_probability(large)[0, 1] > mean_probability(small)[0, 1]
    assert mean_probability(small)[0, 1] == pytest.approx((CERTAIN + 63 * 0.1) / 64)
    for score in (foreground_probability, component_probability):
        torch.testing.assert_close(score(large), score(small))
        assert float(score(small)[0, 1]) == pytest.approx(CERTAIN)


def test_components_are_told_apart():
    """Two components of .8 and .6: .7 together, .8 for the better one; a diagonal does not join."""
    probs = lesion_of((0, 0), (1, 1))
    probs[0, :, 1, 1] = torch.tensor([0.4, 0.6])
    assert float(foreground_probability(probs)[0, 1]) == pytest.approx(0.7)
    assert float(component_probability(probs)[0, 1]) == pytest.approx(0.8)
    assert float(component_probability(probs)[0, 0]) == pytest.approx(0.4)  # of the other component


def test_without_foreground_the_score_is_zero():
    for score in (foreground_probability, component_probability):
        assert score(lesion_of()).tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side", [64, 256, 512])
def test_half_precision_counts_every_pixel(dtype, side):
    """A foreground of 512² pixels is more than float16 can count, and than it can add up."""
    probs = torch.tensor([0.25, 0.75], dtype=dtype).view(1, 2, 1, 1).expand(1, 2, side, side)
    for score in (mean_probability, foreground_probability):
        assert score(probs).dtype == dtype
        assert score(probs).tolist() == [[0.25, 0.75]]


def test_area_is_exceeded_not_reached():
    probs = lesion_of((0, 0), (5, 5))
    assert positive_by_area(probs, threshold=0.5, area=1)[0].tolist() == [True, True]
    assert positive_by_area(probs, threshold=0.5, area=2)[0].tolist() == [True, False]


def test_volumes_and_wrong_input():
    probs = torch.rand(2, 3, 4, 4, 4).softmax(1)
    for score in (mean_probability, foreground_probability, component_probability):
        assert score(probs).shape == (2, 3)
        with pytest.raises(ValueError, match="softmax"):
            score(torch.zeros(2, 3))
