import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.debiasing import (
    SURE,
    background_mean,
    crop_to,
    lesion_box,
    put_back,
    replace_background,
    reverse_gradient,
)


def test_mean_background_is_the_mean_where_each_image_is_background():
    torch.manual_seed(0)
    images, background = torch.rand(6, 3, 5, 4), torch.rand(6, 5, 4) < 0.6
    background[:, 2, 2] = False
    found = background_mean([(images[:4], background[:4]), (images[4:], background[4:])])
    for c in range(3):
        for i in range(5):
            for j in range(4):
                here = images[:, c, i, j][background[:, i, j]]
                everywhere = images[:, c][background]
                wanted = here.mean() if len(here) else everywhere.mean()
                assert found[c, i, j].item() == pytest.approx(wanted.item(), abs=1e-6)
    with pytest.raises(ValueError, match="no pixel of any image is background"):
        background_mean([(images, torch.zeros_like(background))])


def test_the_lesion_stays_and_an_image_without_one_is_left_alone():
    image, foreground = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    foreground[0, 1:3, 1:3] = True
    replaced = replace_background(image, foreground, torch.full((3, 4, 4), -1.0))
    assert torch.equal(replaced[0, :, 1:3, 1:3], image[0, :, 1:3, 1:3])
    assert (replaced[0, :, ~foreground[0]] == -1).all()
    assert torch.equal(replaced[1], image[1])


@given(
    shape=st.lists(st.integers(2, 24), min_size=2, max_size=3),
    margin=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_boxes_hold_the_lesion_and_keep_the_proportions(shape, margin, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 3 / torch.tensor(shape).prod()
    box = lesion_box(mask, margin)
    inside = torch.zeros_like(mask)[None]
    inside[box.slices()] = True
    assert not (mask & ~inside[0]).any()
    assert all(a >= 0 and a + n <= length for a, n, length in zip(box.start, box.size, shape, strict=True))
    scales = [n / length for n, length in zip(box.size, shape, strict=True)]
    assert max(scales) - min(scales) <= 1 / min(shape) + 1e-9


def test_a_crop_put_back_is_where_it_was():
    logits = F.interpolate(torch.rand(1, 2, 4, 4), 16, mode="bilinear", align_corners=False)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:12, 2:10] = True
    box = lesion_box(mask, margin=0.0)
    back = put_back(crop_to(logits, [box]), [box])
    assert (back - logits)[:, :, 5:11, 3:9].abs().max() < 0.05
    assert (back[:, 0][:, ~mask] == SURE).all()
    assert (back[:, 1][:, ~mask] == 0).all()
    whole = lesion_box(torch.zeros(16, 16, dtype=torch.bool), margin=0.1)
    assert torch.equal(put_back(crop_to(logits, [whole]), [whole]), logits)


def test_reversal_changes_nothing_but_the_gradient():
    x = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, dtype=torch.float64)
    plain = torch.autograd.grad((x @ weight).square().sum(), x)[0]
    output = (reverse_gradient(x, 0.7) @ weight).square().sum()
    assert output == (x @ weight).square().sum()
    torch.testing.assert_close(torch.autograd.grad(output, x)[0], -0.7 * plain)
