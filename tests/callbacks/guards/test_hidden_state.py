"""Side doors by which the forget set could come back: optimisers, odd tensors, layers nobody knows of."""

import copy
import functools
import json
from collections import deque

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import PROMISES, Module, content, fit, network, promises
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from two_loaders import KEYS, TheirModule, trainer_for

from erode.callbacks import FineTune, GradientClipping, NegGradPlus, OutputPerturbation, Retrain
from erode.callbacks.guards.reset import reset_parameters, stuck


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
@promises
def test_an_optimiser_that_remembers_the_original_training_is_refused(tmp_path, make, what):
    """Its moments were computed on the forget set."""
    module = Keeps(what)
    fit(module, tmp_path / "original", max_steps=4)
    with pytest.raises(MisconfigurationException, match="that was used before"):
        fit(module, tmp_path / "unlearning", make())
    assert not (tmp_path / "unlearning" / "unlearned" / "weights.safetensors").exists()


class Warm(Module):
    """Loads the state of an optimiser from an earlier training into each new one."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.saved = kind, None

    def configure_optimizers(self):
        optimizer = self.kind(self.parameters())
        if self.saved is not None:
            optimizer.load_state_dict(self.saved)
        return optimizer


KINDS = {
    "Adam": lambda weights: torch.optim.Adam(weights, lr=0.01),
    "momentum": lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9),
    "RMSprop": lambda weights: torch.optim.RMSprop(weights, lr=0.01),
    "Adagrad": lambda weights: torch.optim.Adagrad(weights, lr=0.01),
}


@pytest.mark.parametrize("kind", KINDS)
@promises
def test_the_state_of_an_optimiser_from_before_is_refused_whether_it_counts_steps_or_not(tmp_path, make, kind):
    module = Warm(KINDS[kind])
    module.saved = fit(module, tmp_path / "original", max_steps=4).optimizers[0].state_dict()
    with pytest.raises(MisconfigurationException, match="that was used before"):
        fit(module, tmp_path / "unlearning", make())
    assert not (tmp_path / "unlearning" / "unlearned" / "weights.safetensors").exists()
    module.saved = None
    fit(module, tmp_path / "fresh", make())
    assert (tmp_path / "fresh" / "unlearned" / "weights.safetensors").exists()


class Reloads(Module):
    """Loads the state of an earlier optimiser in a hook."""

    def __init__(self, hook, step=None):
        super().__init__()
        self.saved, self.step = None, step
        setattr(self, hook, self.reload)

    def reload(self):
        if self.saved is None or self.trainer.current_epoch != self.trainer.max_epochs - 1:
            return
        state = copy.deepcopy(self.saved)
        for values in state["state"].values():
            values["step"] = values["step"] if self.step is None else torch.tensor(float(self.step))
        self.optimizers().optimizer.load_state_dict(state)


@pytest.mark.parametrize("step", [None, 0])
@pytest.mark.parametrize(
    ("hook", "epochs", "why"),
    [
        ("on_train_start", 1, "that was used before"),
        ("on_train_epoch_start", 1, "that was used before"),
        ("on_train_epoch_start", 3, "loads a state into Adam in the middle of the run"),
    ],
)
@pytest.mark.parametrize("make", [Retrain, OutputPerturbation], ids=["Retrain", "OutputPerturbation"])
def test_a_state_that_a_hook_loads_is_refused_too(make, hook, epochs, why, step, tmp_path):
    module = Reloads(hook, step)
    module.saved = fit(Module(), tmp_path / "original", max_steps=4).optimizers[0].state_dict()
    with pytest.raises(MisconfigurationException, match=why):
        fit(module, tmp_path, make(), max_steps=-1, max_epochs=epochs)
    assert not list(tmp_path.rglob("weights.safetensors"))


def test_a_state_that_comes_between_the_hand_over_and_the_next_step_is_refused(tmp_path):
    """The hand-over is at the end of the first epoch here."""
    module = Reloads("on_train_epoch_start")
    module.saved = fit(Module(), tmp_path / "original", max_steps=4).optimizers[0].state_dict()
    with pytest.raises(MisconfigurationException, match="that was used before"):
        fit(module, tmp_path, GradientClipping(steps=2), max_steps=-1, max_epochs=2)
    assert not list(tmp_path.rglob("weights.safetensors"))


class Slow(torch.optim.SGD):
    """Keeps copies of the weights from when it is made, as look-ahead does."""

    def __init__(self, weights):
        super().__init__(weights, lr=0.01)
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["slow"] = weight.detach().clone()


def test_copies_of_the_weights_as_they_are_remember_nothing(tmp_path):
    fit(Warm(Slow), tmp_path, Retrain())
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


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


class Holder:
    """Anything of somebody's own that holds on to a network."""

    def __init__(self, network):
        self.network = network


class Teaches(nn.Identity):
    """Keeps a teacher where no list of layers shows it."""

    def __init__(self, wrap):
        super().__init__()
        self.kept = wrap(nn.Conv2d(3, 3, 1))


class Averages(nn.Conv2d):
    """Saves an average of its weights in place of them."""

    def __init__(self):
        super().__init__(3, 3, 1)
        self.average = [self.weight.detach().clone()]

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.average[0]


REFUSED = {
    "teacher in a queue": (lambda: Teaches(lambda net: deque([net])), "the module does not know"),
    "teacher in an object": (lambda: Teaches(Holder), "the module does not know"),
    "teacher in a partial": (lambda: Teaches(lambda net: functools.partial(net, None)), "the module does not know"),
    "teacher in a method": (lambda: Teaches(lambda net: net.forward), "the module does not know"),
    "averages as weights": (Averages, r"gives another tensor as network\.0\.weight"),
    "complex parameter": (lambda: Strange("complex"), "cannot re-initialise"),
    "integer parameter": (lambda: Strange("integer"), "cannot re-initialise"),
    "unregistered layer": (lambda: Strange("unregistered"), "the module does not know"),
    "extra state": (Remembers, "extra state"),
    "unregistered state": (Adds, r"state_dict\(\) adds network\.0\.seen"),
    "unsaved parameters": (lambda: Hides(3, 3, 1), "state_dict"),
}


@pytest.mark.parametrize("kind", REFUSED)
@promises
def test_what_nothing_would_reach_is_refused(tmp_path, make, kind):
    layer, why = REFUSED[kind]
    with pytest.raises(MisconfigurationException, match=why):
        fit(Odd(layer()), tmp_path, make())


class Distils(Module):
    """Keeps its teacher among the hyperparameters."""

    def __init__(self, teacher, network=None):
        super().__init__(network)
        self.save_hyperparameters()


@pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`")
@promises
def test_a_teacher_among_the_hyperparameters_is_refused(tmp_path, make):
    with pytest.raises(MisconfigurationException, match=r"_hparams holds a Conv2d that the module does not know"):
        fit(Distils(nn.Conv2d(3, 3, 1)), tmp_path, make())


@pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`")
@promises
def test_the_network_itself_may_stand_there(tmp_path, make):
    fit(Distils(None, network()), tmp_path, make())
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


class Counts(Module):
    """Weighs classes by how often they were seen, in this training and in those before."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.ones(2, dtype=torch.int64))

    def training_step(self, batch, index):
        self.seen += torch.bincount(batch["mask"].flatten(), minlength=2)
        return nn.functional.cross_entropy(self.network(batch["image"]), batch["mask"], self.seen.sum() / self.seen)


def test_an_integer_buffer_that_training_counts_in_is_not_released(tmp_path):
    fit(Counts(), tmp_path / "kept", Retrain())
    record = json.loads((tmp_path / "kept" / "unlearned" / "unlearning.json").read_text())
    assert not record["completed"]
    assert "the buffer seen changed in the run and was not reset before" in record["why"]

    class Resets(Counts):
        def reset_parameters(self):
            self.seen.fill_(1)

    fit(Resets(), tmp_path / "reset", Retrain())
    assert (tmp_path / "reset" / "unlearned" / "weights.safetensors").exists()


def test_counts_of_the_original_training_are_refused_or_listed(tmp_path):
    for name in ("GradientClipping", "OutputPerturbation"):
        with pytest.raises(MisconfigurationException, match=r"cannot re-initialise network\.0\.counts"):
            fit(Odd(Strange("counts")), tmp_path / name, PROMISES[name]())
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
