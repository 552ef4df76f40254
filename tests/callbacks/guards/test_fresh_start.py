"""Side doors by which the forget set could come back: optimisers, odd tensors, layers nobody knows of."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, content, fit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from two_loaders import KEYS, TheirModule, trainer_for

from erode.callbacks import FineTune, GradientClipping, NegGradPlus, OutputPerturbation, Retrain
from erode.callbacks.guards.fresh_start import stuck
from erode.callbacks.guards.reset import reset_parameters

STRICT = {
    "Retrain": lambda: Retrain(),
    "GradientClipping": lambda: GradientClipping(steps=2),
    "OutputPerturbation": lambda: OutputPerturbation(),
}
strict = pytest.mark.parametrize("make", STRICT.values(), ids=STRICT.keys())


class Keeps(Module):
    """Gives the same optimiser, or scheduler, to every fit."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.kept = torch.optim.Adam(self.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.kept, 2)

    def configure_optimizers(self):
        if self.what == "optimiser":
            return self.kept
        fresh = torch.optim.Adam(self.parameters(), lr=0.01)
        self.schedule.optimizer = fresh
        return {"optimizer": fresh, "lr_scheduler": {"scheduler": self.schedule, "interval": "step"}}


@pytest.mark.parametrize("what", ["optimiser", "scheduler"])
@strict
def test_an_optimiser_that_remembers_the_original_training_is_refused(tmp_path, make, what):
    """Its moments were computed on the forget set."""
    module = Keeps(what)
    fit(module, tmp_path / "original", max_steps=4)
    with pytest.raises(MisconfigurationException, match="that was used before"):
        fit(module, tmp_path / "unlearning", make())
    assert not (tmp_path / "unlearning" / "unlearned" / "weights.safetensors").exists()


class Strange(nn.Module):
    """A layer with one thing that no reset reaches."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        if kind == "complex":
            self.weight = nn.Parameter(torch.randn(1, dtype=torch.cfloat), requires_grad=False)
        if kind == "integer":
            self.weight = nn.Parameter(torch.tensor([3], dtype=torch.int8), requires_grad=False)
        if kind == "counts":
            self.register_buffer("counts", torch.tensor([3, 4]))
        if kind == "unregistered":
            self.hidden = [nn.Conv2d(3, 3, 1)]

    def forward(self, x):
        return self.hidden[0](x) if self.kind == "unregistered" else x


class Remembers(nn.Identity):
    def get_extra_state(self):
        return {"largest": 3.0}

    def set_extra_state(self, state):
        pass


class Hides(nn.Conv2d):
    """Leaves its weights out of the state dict."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        pass

    def _load_from_state_dict(self, *arguments):
        pass


class Adds(nn.Identity):
    """Saves a count that no buffer holds, as persistent states of metrics."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "seen"] = torch.tensor([3.0])


class Odd(Module):
    def __init__(self, layer):
        super().__init__(nn.Sequential(layer, nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)))

    def configure_optimizers(self):
        hidden = getattr(self.network[0], "hidden", [])
        return torch.optim.Adam([*self.parameters(), *(p for layer in hidden for p in layer.parameters())], lr=0.01)


REFUSED = {
    "complex parameter": (lambda: Strange("complex"), "cannot re-initialise"),
    "integer parameter": (lambda: Strange("integer"), "cannot re-initialise"),
    "unregistered layer": (lambda: Strange("unregistered"), "the module does not know"),
    "extra state": (Remembers, "extra state"),
    "unregistered state": (Adds, r"state_dict\(\) adds network\.0\.seen"),
    "unsaved parameters": (lambda: Hides(3, 3, 1), "state_dict"),
}


@pytest.mark.parametrize("kind", REFUSED)
@strict
def test_what_nothing_would_reach_is_refused(tmp_path, make, kind):
    layer, why = REFUSED[kind]
    with pytest.raises(MisconfigurationException, match=why):
        fit(Odd(layer()), tmp_path, make())


def test_counts_of_the_original_training_are_refused_or_listed(tmp_path):
    for name in ("GradientClipping", "OutputPerturbation"):
        with pytest.raises(MisconfigurationException, match=r"cannot re-initialise network\.0\.counts"):
            fit(Odd(Strange("counts")), tmp_path / name, STRICT[name]())
    fit(Odd(Strange("counts")), tmp_path / "Retrain", Retrain())
    record = json.loads((tmp_path / "Retrain" / "unlearned" / "unlearning.json").read_text())
    assert record["kept_buffers"] == ["network.0.counts"]


def test_what_a_reset_reaches_is_tried_out():
    layer = nn.Sequential(nn.BatchNorm2d(2), Strange("counts"), Strange("complex"))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert stuck(layer, reset_parameters) == ["2.weight", "1.counts"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


class Masked(Module):
    """A constant that is infinite on purpose."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((2,), -torch.inf))


def test_a_buffer_that_is_infinite_on_purpose_is_no_divergence(tmp_path):
    fit(Masked(), tmp_path, FineTune())
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


class Normed(TheirModule):
    def __init__(self):
        super().__init__(norm=False)
        self.body = nn.Sequential(
            nn.InstanceNorm2d(1, track_running_stats=True), nn.Conv2d(1, 2, 3, padding=1)
        )  # fmt: skip


def test_instance_normalisation_follows_the_retained_images_alone(tmp_path):
    mask = torch.zeros(8, 8, 8, dtype=torch.long)
    mask[:, 2:5, 2:5] = 1
    near, far = torch.randn(8, 1, 8, 8), torch.randn(8, 1, 8, 8) + 100
    loaders = {n: DataLoader(TensorDataset(x, mask, mask), 4) for n, x in (("retain", near), ("forget", far))}
    module = Normed()
    trainer_for(tmp_path, NegGradPlus(**KEYS, collapse_ratio=0), max_steps=6).fit(module, loaders)
    assert module.body[0].running_mean.abs().max() < 2


class Sparse(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.words, self.empty = nn.Embedding(7, 2, sparse=True), nn.Linear(0, 3)

    def training_step(self, batch, index):
        return self.words(batch["mask"]).square().mean() + self.empty(torch.zeros(1, 0)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_sparse_gradients_and_empty_parameters_are_certified_like_any(tmp_path):
    fit(Sparse(), tmp_path, GradientClipping(steps=2))
    assert content(tmp_path)["issued"] is True


def test_frozen_filters_that_retrain_draws_anew_are_named(tmp_path):
    module = Module()
    module.network[0].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"drew network\.0\.weight and 0 other frozen parameters anew"):
        fit(module, tmp_path, Retrain())
