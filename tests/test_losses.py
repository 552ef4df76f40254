import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.batch import NO_PRIOR, Role
from erode.losses import RingAscentLoss, RingReweightedLoss, RoleLoss, soft_targets


def batch_of(mask, role=None, prior=None, label=None):
    return {
        "mask": mask,
        "role": torch.zeros_like(mask, dtype=torch.uint8) if role is None else role,
        "prior": torch.full(mask.shape, NO_PRIOR) if prior is None else prior,
        "label": mask.flatten(1).amax(1) if label is None else label,
    }


def logits_of(*probabilities):
    """[1, K, 1, W] logits with the given class probabilities per pixel."""
    return torch.tensor(probabilities).log().T[None, :, None, :]


def test_cross_entropy_alone_is_cross_entropy():
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 3, 5, 5), torch.randint(0, 3, (2, 5, 5))
    loss = RoleLoss(dice=0)(logits, batch_of(mask))
    assert loss.item() == pytest.approx(F.cross_entropy(logits, mask).item(), rel=1e-6)


def test_dice_term_by_hand():
    # foreground probabilities .5, .5, 1e-9 against truth 1, 0, 0: 1 - 2*.5/(.5+.5+1) = .5
    logits = logits_of([0.5, 0.5], [0.5, 0.5], [1.0, 1e-9])
    loss = RoleLoss(cross_entropy=0)(logits, batch_of(torch.tensor([[[1, 0, 0]]])))
    assert loss.item() == pytest.approx(0.5, abs=1e-4)


def test_terms_of_the_retain_view_by_hand():
    logits = logits_of([0.7, 0.2, 0.1], [0.5, 0.2, 0.3], [0.2, 0.2, 0.6])
    mask = torch.zeros(1, 1, 3, dtype=torch.long)
    role = torch.tensor([[[Role.RETAIN, Role.UNLABELLED, Role.UNLABELLED]]], dtype=torch.uint8)
    label = torch.tensor([2])
    # (1) outside: -ln .7; (2) inside: -ln(.5+.3) and -ln(.2+.6); (4) -ln max(.3, .6)
    only = dict.fromkeys(("cross_entropy", "dice", "partial_label", "image_class"), 0.0)
    batch = batch_of(mask, role, label=label)
    assert RoleLoss(**only | {"cross_entropy": 1})(logits, batch).item() == pytest.approx(-math.log(0.7), rel=1e-5)
    assert RoleLoss(**only | {"partial_label": 1})(logits, batch).item() == pytest.approx(-math.log(0.8), rel=1e-5)
    assert RoleLoss(**only | {"image_class": 1})(logits, batch).item() == pytest.approx(-math.log(0.6), rel=1e-5)
    # (3) with q = .25, .75 the pixels get soft targets, and the partial label of pixels with a prior is off
    batch = batch_of(mask, role, torch.tensor([[[NO_PRIOR, 0.25, 0.75]]]), label)
    expected = [
        math.log(0.7),
        0.75 * math.log(0.5) + 0.25 * math.log(0.3),
        0.25 * math.log(0.2) + 0.75 * math.log(0.6),
    ]
    loss = RoleLoss(**only | {"cross_entropy": 1})(logits, batch)
    assert loss.item() == pytest.approx(-sum(expected) / 3, rel=1e-5)
    assert RoleLoss(**only | {"partial_label": 1})(logits, batch).item() == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), prior=st.booleans())
def test_no_loss_looks_at_labels_that_were_not_served(seed, prior):
    """Neither the mask under UNLABELLED pixels nor anything under IGNORE pixels changes loss or gradient."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 6, 6)
    mask = torch.randint(0, 3, shape, generator=generator)
    role = torch.randint(0, 4, shape, generator=generator).to(torch.uint8)
    q = torch.rand(shape, generator=generator) if prior else torch.full(shape, NO_PRIOR)
    label = torch.randint(1, 3, (2,), generator=generator)
    logits = torch.randn(2, 3, 6, 6, generator=generator)
    hidden = (role == Role.UNLABELLED) | (role == Role.IGNORE)
    other = torch.where(hidden, (mask + 1) % 3, mask)
    other_logits = torch.where((role == Role.IGNORE).unsqueeze(1), -logits, logits)
    first = RoleLoss()(logits, batch_of(mask, role, q, label))
    assert torch.equal(first, RoleLoss()(other_logits, batch_of(other, role, q, label)))


def test_soft_targets_are_distributions():
    mask = torch.tensor([[[0, 2, 0]]])
    role = torch.tensor([[[0, 0, 2]]], dtype=torch.uint8)
    targets, known = soft_targets(batch_of(mask, role, torch.tensor([[[-1.0, -1.0, 0.25]]]), torch.tensor([2])), 3)
    assert targets[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0, 1], [0.75, 0, 0.25]]
    assert known.all()


def test_empty_kinds_of_pixels_give_zero_and_finite_gradients():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    ignored = torch.full((1, 4, 4), int(Role.IGNORE), dtype=torch.uint8)
    loss = RoleLoss(dice=0)(logits, batch_of(mask, ignored))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_class_weights_follow_torch():
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 3, 5, 5), torch.randint(0, 3, (2, 5, 5))
    ours = RoleLoss(dice=0, class_weights=[0.5, 1.0, 3.0])(logits, batch_of(mask))
    theirs = F.cross_entropy(logits, mask, weight=torch.tensor([0.5, 1.0, 3.0]))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_ring_weight_one_and_beta_one_are_fine_tuning():
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 4, 4)
    fine = torch.zeros(1, 4, 4, dtype=torch.long)
    fine[:, 1:3, 1:3] = 1
    coarse = torch.zeros_like(fine)
    coarse[:, :, 1:] = 1
    plain = F.cross_entropy(logits, fine)
    assert RingReweightedLoss(1.0)(logits, fine, coarse).item() == pytest.approx(plain.item(), rel=1e-6)
    consistent = ~((coarse > 0) & (fine == 0))
    per_pixel = F.cross_entropy(logits, fine, reduction="none")
    assert RingAscentLoss(1.0)(logits, fine, coarse).item() == pytest.approx(per_pixel[consistent].mean().item())


def test_ring_losses_by_hand():
    logits = logits_of([0.8, 0.2], [0.4, 0.6], [0.3, 0.7])
    fine, coarse = torch.tensor([[[0, 0, 1]]]), torch.tensor([[[0, 1, 1]]])
    a, b, c = -math.log(0.8), -math.log(0.4), -math.log(0.7)
    assert RingReweightedLoss(3.0)(logits, fine, coarse).item() == pytest.approx((a + 3 * b + c) / 5, rel=1e-5)
    ascent = 0.9 * (a + c) / 2 - 0.1 * -math.log(0.6)
    assert RingAscentLoss(0.9)(logits, fine, coarse).item() == pytest.approx(ascent, rel=1e-5)
