"""NegGrad+: its gradient, what it does to forget atoms, and its guard."""

import json

import pytest
import torch
from torch import nn
from two_loaders import KEYS, TheirModule, coarse_trained, copy_of, pair, squares, trainer_for

from erode.callbacks import NegGradPlus

torch.set_num_threads(1)


class Still(TheirModule):
    """A learning rate of nothing, so that gradients can be looked at."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("beta", [0.95, 0.3, 1.0])
def test_the_gradient_is_the_weighted_difference(tmp_path, beta):
    loaders = pair(squares(4, 1), squares(4, 2))
    module, seen = Still(), {}

    def look(operator, trainer, pl_module, optimizer):
        seen.update({name: p.grad.clone() for name, p in pl_module.named_parameters()})

    operator = type("Looking", (NegGradPlus,), {"on_before_optimizer_step": look})(beta=beta, **KEYS)
    trainer_for(tmp_path, operator, max_steps=1).fit(module, loaders)
    parameters = dict(module.named_parameters())
    (image, fine, _), (other, _, coarse) = next(iter(loaders["retain"])), next(iter(loaders["forget"]))
    module.train()
    retained = nn.functional.cross_entropy(module(image), fine)
    logits = module(other).movedim(1, -1)[coarse > 0]
    forgotten = nn.functional.cross_entropy(logits, coarse[coarse > 0])
    descent, ascent = (torch.autograd.grad(loss, list(parameters.values())) for loss in (retained, forgotten))
    for name, down, up in zip(parameters, descent, ascent, strict=True):
        torch.testing.assert_close(seen[name], beta * down - (1 - beta) * up)


def test_forget_atoms_are_pushed_away_more_than_by_fine_tuning(tmp_path):
    original = coarse_trained()
    image, fine, coarse = squares(12, 2).tensors
    ring = (coarse == 1) & (fine == 0)
    left = {}
    for beta in (1.0, 0.7):
        module = copy_of(original)
        trainer_for(tmp_path / str(beta), NegGradPlus(beta, **KEYS, collapse_ratio=0), max_steps=12).fit(module, pair())
        with torch.inference_mode():
            left[beta] = module.eval()(image).softmax(1)[:, 1][ring].mean().item()
    assert left[0.7] < left[1.0] - 0.02


def test_the_guard_restores_healthy_weights(tmp_path):
    """β = 0.02 is nearly pure ascent on foreground labels: all foreground would go."""
    module = coarse_trained()
    operator = NegGradPlus(0.02, collapse_ratio=0.3, check_every=1, **KEYS)
    trainer = trainer_for(tmp_path, operator, max_steps=200, max_epochs=-1)
    trainer.fit(module, pair())
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert record["collapse_guard"]["triggered"] is True
    assert record["guarantee"] == "approximate"
    assert trainer.global_step < 200
    image, fine, _ = squares(8, 1).tensors
    assert (module.train()(image).argmax(1) > 0).sum() > 0.2 * fine.sum()


@pytest.mark.parametrize("beta", [0, 1.5])
def test_a_beta_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match=rf"beta must lie in \(0, 1\], got {beta}"):
        NegGradPlus(beta)
