"""Every way in which published code broke its promise, put into real runs of ours: each is caught (theory §9).

| mutation | caught by |
|---|---|
| no noise, noise scaled by 0.5 | the empirical lower bound on μ exceeds the certified one |
| momentum left on, clip before the sum over batches | the same |
| noise repeated | the spread of the released weights is not the one that was promised |
| noise repeated, clip before the sum over batches | weights are further away than noise and clipped steps carry them |
| momentum left on, in the user's own optimiser | the certificate is not issued |
| clip before all-reduce | two processes do not release what one does |
| different noise per rank | the ranks are compared before anything is released |
| buffers not reset | the buffers are compared with the anchor's before the first step |

One parameter of 100,000 coordinates is 100,000 runs in one dimension: its gradient is far above the clip, and clipping
the whole vector to C √n clips each coordinate to C. Runs of two processes are this file, run as a script.
"""

import contextlib
import json
import math
import os
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from erode.accounting import gdp_epsilon
from erode.callbacks import GradientClipping, gradient_clipping
from erode.callbacks.bases import noisy_phase
from erode.callbacks.bases.running_statistics import RunningStatistics
from erode.callbacks.noise.keyed_noise import KeyedNoise
from erode.callbacks.noise.noisy_sgd import clip_
from erode.metrics import exact_binomial
from erode.weights import read_state

RUNS, STEPS = 100_000, 20
MU, DELTA = 1.0, 1e-5
NARROW = GradientClipping(
    epsilon=gdp_epsilon(MU, DELTA), delta=DELTA, radius=1.0, clip_norm=1.0, weight_decay=0.5, learning_rate=0.1,
    steps=STEPS,
)  # fmt: skip
WIDE = {
    "radius": math.sqrt(RUNS), "clip_norm": math.sqrt(RUNS), "weight_decay": 0.5, "learning_rate": 0.1,
    "steps": STEPS, "epsilon": None, "sigma": NARROW.mechanism.sigma, "delta": DELTA,
}  # fmt: skip


# Runs of one process, in the case in which the account is exact ---------------------------------------------------


class Slope(pl.LightningModule):
    """A loss that falls in one direction for ever, from a start at the edge of the ball."""

    def __init__(self, direction):
        super().__init__()
        self.direction = direction
        self.weight = nn.Parameter(torch.full((RUNS,), 1e3 * direction))

    def training_step(self, batch, index):
        return -1e3 * self.direction * self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def fit(module, folder, loader, operator, **settings):
    settings = {"accelerator": "cpu", "devices": 1, "max_epochs": 1000, **settings}
    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[operator], default_root_dir=folder, **settings,
    )  # fmt: skip
    trainer.fit(module, loader)
    return trainer


def released(folder, direction, seed, accumulate):
    module = Slope(direction)
    operator = GradientClipping(**WIDE, shrink=False, anchor="zeros", seed=seed, folder=folder / str(seed))
    settings = {"max_steps": STEPS, "accumulate_grad_batches": accumulate}
    fit(module, folder, DataLoader(range(accumulate * STEPS)), operator, **settings)
    return read_state(folder / str(seed) / "weights.safetensors")["weight"].double()


def audited(folder, accumulate=1):
    """Lower bound on μ between the two worst runs (95 %, exact binomials), and whether the spread is as promised."""
    high, low = (released(folder, direction, seed, accumulate) for direction, seed in ((1.0, 1), (-1.0, 2)))
    threshold = (high.mean() + low.mean()) / 2
    errors = [int((low > threshold).sum()), int((high <= threshold).sum())]
    upper = [exact_binomial(count, RUNS)[1] for count in errors]
    contraction = NARROW.mechanism.bounds()[0]
    variance = NARROW.mechanism.sigma**2 * sum(contraction ** (2 * k) for k in range(STEPS))
    ends = stats.chi2.ppf([0.0005, 0.9995], RUNS - 1)
    spread = all(ends[0] < float(sample.var() * (RUNS - 1) / variance) < ends[1] for sample in (high, low))
    return stats.norm.isf(upper[0]) - stats.norm.ppf(upper[1]), spread


def test_without_a_mutation_the_certificate_is_true_and_tight(tmp_path):
    for accumulate in (1, 4):
        bound, spread = audited(tmp_path / str(accumulate), accumulate)
        assert 0.9 * MU <= bound <= MU
        assert spread


def scale_noise(monkeypatch, factor):
    keyed = KeyedNoise.keyed
    monkeypatch.setattr(
        KeyedNoise, "keyed", lambda self, tensors, step, scale: keyed(self, tensors, step, factor * scale)
    )


def refused_for_how_far_it_went(folder, monkeypatch, **settings):
    """The run itself notices; then it is let on, for the audit to see."""
    with pytest.raises(FloatingPointError, match="further away than clipped steps and noise can carry them"):
        audited(folder / "refused", **settings)
    monkeypatch.setattr(gradient_clipping, "reach", lambda *_: math.inf)


def test_no_noise_is_caught(tmp_path, monkeypatch):
    scale_noise(monkeypatch, 0.0)
    assert audited(tmp_path)[0] > MU


def test_noise_scaled_by_a_half_is_caught(tmp_path, monkeypatch):
    scale_noise(monkeypatch, 0.5)
    assert audited(tmp_path)[0] > MU


def test_repeated_noise_is_caught(tmp_path, monkeypatch):
    """It hides more in this case, not less; but it is not the noise that was promised: the spread gives it away."""
    key = KeyedNoise._key
    monkeypatch.setattr(KeyedNoise, "_key", lambda self, step, index: key(self, 0, index))
    refused_for_how_far_it_went(tmp_path, monkeypatch)
    assert not audited(tmp_path)[1]


def clip_each_backward_pass(monkeypatch, module_class, clip_norm):
    """Clip in a hook of the parameter, before gradients are added up or averaged over ranks, and no more after."""
    monkeypatch.setattr(gradient_clipping, "clip_", lambda gradients, radius: None)
    make = module_class.__init__

    def hooked(self, *arguments):
        make(self, *arguments)
        for parameter in self.parameters():
            parameter.register_hook(lambda gradient: _clipped(gradient, clip_norm))

    monkeypatch.setattr(module_class, "__init__", hooked)


def _clipped(gradient, clip_norm):
    gradient = gradient.clone()
    clip_([gradient], clip_norm)
    return gradient


def test_clip_before_the_sum_over_batches_is_caught(tmp_path, monkeypatch):
    """Four accumulated batches, each clipped: nobody clips the sum."""
    clip_each_backward_pass(monkeypatch, Slope, WIDE["clip_norm"])
    refused_for_how_far_it_went(tmp_path, monkeypatch, accumulate=4)
    assert audited(tmp_path, accumulate=4)[0] > MU


def test_momentum_left_on_is_caught(tmp_path, monkeypatch):
    update = GradientClipping.update

    def with_momentum(self, weights, gradients, anchor):
        before = [w.detach().clone() for w in weights]
        update(self, weights, gradients, anchor)
        step = [w - b for w, b in zip(weights, before, strict=True)]
        self.velocity = [0.9 * v + s for v, s in zip(getattr(self, "velocity", step), step, strict=True)]
        for weight, start, velocity in zip(weights, before, self.velocity, strict=True):
            weight.copy_(start + velocity)

    monkeypatch.setattr(GradientClipping, "update", with_momentum)
    assert audited(tmp_path)[0] > MU


def test_the_users_own_momentum_left_on_is_not_certified(tmp_path, monkeypatch):
    """The operator accounts for its own steps only: those of an optimiser that it failed to replace do not count."""
    take_over = GradientClipping._take_over

    def leave_theirs(self, trainer, *arguments):
        own = trainer.strategy.optimizers
        take_over(self, trainer, *arguments)
        trainer.strategy.optimizers = own

    monkeypatch.setattr(GradientClipping, "_take_over", leave_theirs)
    operator = GradientClipping(**WIDE, shrink=False, anchor="zeros", folder=tmp_path / "out")
    fit(Slope(1.0), tmp_path, DataLoader(range(STEPS)), operator, max_steps=STEPS)
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert certificate["issued"] is False
    assert certificate["why_not"] == "the run ended after 0 of 20 certified steps"
    assert not (tmp_path / "out" / "weights.safetensors").exists()


class Normalised(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.network(torch.randn(8, 4))  # statistics of the original training

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_buffers_that_are_not_reset_are_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(RunningStatistics, "reset", lambda self: [])
    data = TensorDataset(torch.randn(8, 4), torch.randint(0, 3, (8,)))
    with pytest.raises(MisconfigurationException, match="running_mean is neither exposed"):
        fit(Normalised(), tmp_path, DataLoader(data, batch_size=4), GradientClipping(steps=2), max_steps=2)


# Runs of two processes -------------------------------------------------------------------------------------------


class Uneven(pl.LightningModule):
    """Every second example, those of one rank, has a gradient far above the clip; the others are below it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def training_step(self, batch, index):
        return (batch[1] * self.layer(batch[0]).sum(1)).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Refused(pl.Callback):
    """Written by the rank itself: the launcher reports whichever rank it sees end first."""

    def on_exception(self, trainer, module, exception):
        (Path(trainer.default_root_dir) / f"refused-{trainer.global_rank}").write_text(str(exception))


def two_or_one(folder, name, devices, seed):
    torch.manual_seed(0)
    images = torch.rand(24, 4)
    images[1::2] = -images[1::2].flip(1)
    data = TensorDataset(images, torch.tensor([100.0, 0.1]).repeat(12))
    operator = GradientClipping(
        steps=3, shrink=False, learning_rate=0.1, radius=1.0, anchor="zeros", seed=seed, folder=folder / name
    )
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_fork", max_steps=3, logger=False, default_root_dir=folder,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Refused(), operator],
    )  # fmt: skip
    trainer.fit(Uneven(), DataLoader(data, batch_size=8 // devices))


def main(folder):
    torch.set_num_threads(1)
    two_or_one(folder, "one", 1, seed=1)
    two_or_one(folder, "two", 2, seed=1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        clip_each_backward_pass(monkeypatch, Uneven, 1.0)
        two_or_one(folder, "clip_before_all_reduce", 2, seed=1)
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.suppress(Exception):
        monkeypatch.setattr(noisy_phase, "shared_secret", lambda broadcast, seed: os.urandom(32))
        two_or_one(folder, "own_noise_per_rank", 2, seed=None)


@pytest.fixture(scope="module")
def processes(tmp_path_factory, as_script):
    folder = tmp_path_factory.mktemp("processes")
    as_script(__file__, folder)
    return folder


def weights(folder):
    state = read_state(folder / "weights.safetensors")
    return torch.cat([state[name].flatten() for name in sorted(state)])


def test_two_processes_release_what_one_does(processes):
    assert torch.allclose(weights(processes / "one"), weights(processes / "two"), atol=1e-6)


def test_clip_before_all_reduce_is_caught(processes):
    """The mean of clipped gradients is another step than the clipped mean."""
    apart = (weights(processes / "one") - weights(processes / "clip_before_all_reduce")).norm()
    assert apart > 1e-2


def test_different_noise_per_rank_is_caught(processes):
    said = [path.read_text() for path in processes.glob("refused-*")]
    assert any("the ranks hold different weights" in words for words in said), said
    folder = processes / "own_noise_per_rank"
    assert not (folder / "weights.safetensors").exists()
    certificate = folder / "certificate.json"  # rank 0 may be ended by the launcher before it can say so
    assert not certificate.exists() or json.loads(certificate.read_text())["issued"] is False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
