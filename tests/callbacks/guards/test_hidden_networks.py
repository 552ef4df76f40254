"""Networks and optimisers that a module does not know, wherever they stand: they may have learnt the forget set."""

import copy
import weakref
from collections.abc import Mapping

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, fit, loader, network, promises
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import ROC, MetricCollection

from erode.callbacks import OutputPerturbation, Retrain

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Bank(nn.Module):
    """A network whose weights are buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(2, 3, 3, 3))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight, padding=1)


def scripted():
    return torch.jit.freeze(torch.jit.script(nn.Conv2d(3, 2, 3, padding=1).eval()))


class Taught(Module):
    """Learns from a network in a plain attribute."""

    def __init__(self, teacher):
        super().__init__()
        self.teacher = (teacher,)


def packed():
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)), {nn.Linear}, torch.qint8)


@pytest.mark.filterwarnings("ignore:.*quantization.*:DeprecationWarning")
@pytest.mark.parametrize(
    "teacher", [Bank, scripted, lambda: nn.Conv2d(3, 2, 1), packed], ids=["buffers", "script", "layer", "quantised"]
)
@promises
def test_a_network_is_found_whatever_its_weights_are(make, teacher, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"^teacher holds a \w+ that the module does not know"):
        fit(Taught(teacher()), tmp_path, make())


@promises
def test_constants_of_a_script_are_no_hiding_place(make, tmp_path):
    module = Module()
    module.teacher = scripted()
    with pytest.raises(MisconfigurationException, match="teacher is a frozen TorchScript module"):
        fit(module, tmp_path, make())


def test_a_script_that_was_not_frozen_is_a_network_like_others(tmp_path):
    fit(Module(torch.jit.script(network())), tmp_path, OutputPerturbation(anchor="zeros"))
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


class Pseudo(pl.LightningDataModule):
    """Labels by a network of its own."""

    def __init__(self, teacher):
        super().__init__()
        self.teacher = teacher

    def train_dataloader(self):
        return loader()

    def on_after_batch_transfer(self, batch, index):
        return batch if self.teacher is None else {**batch, "mask": self.teacher(batch["image"]).argmax(1)}


class Averages(pl.Callback):
    """Weights near those of the original model."""

    def __init__(self, module):
        self.average = copy.deepcopy(module.network)
        with torch.no_grad():
            for weight in self.average.parameters():
                weight.mul_(0.999)


@promises
def test_networks_of_data_and_callbacks_are_found_too(make, tmp_path):
    module = Module()
    for teacher, callbacks, place in (
        (copy.deepcopy(module.network), [], r"Pseudo\.teacher"),
        (None, [Averages(module)], r"Averages\.average"),
    ):
        trainer = pl.Trainer(max_steps=9, callbacks=[*callbacks, make()], default_root_dir=tmp_path, **QUIET)
        with pytest.raises(MisconfigurationException, match=rf"{place} holds a Sequential that the module does not"):
            trainer.fit(module, datamodule=Pseudo(teacher))


class ByHand(Module):
    """Keeps its optimiser to itself."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.own = torch.optim.Adam(self.network.parameters(), lr=0.01)

    def training_step(self, batch, index):
        self.own.zero_grad()
        self.manual_backward(super().training_step(batch, index))
        self.own.step()

    def configure_optimizers(self):
        return None


def test_an_optimiser_that_lightning_does_not_know_may_not_remember_steps(tmp_path):
    module = ByHand()
    pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(module, loader())
    with pytest.raises(MisconfigurationException, match="own holds a Adam that has taken steps"):
        fit(module, tmp_path, Retrain(), max_steps=-1, max_epochs=1)


class Remembering(pl.Callback):
    """Keeps an optimiser of the original network, as manual optimisation might use."""

    def __init__(self, module):
        self.own = torch.optim.Adam(module.network.parameters(), lr=0.01)
        module.network(torch.zeros(1, 3, 8, 8)).sum().backward()
        self.own.step()


def test_nor_one_that_a_callback_keeps(tmp_path):
    module = Module()
    with pytest.raises(MisconfigurationException, match=r"Remembering\.own holds a Adam that has taken steps"):
        fit(module, tmp_path, Remembering(module), Retrain())


class PseudoLabelled(Dataset):
    """Labels by a network of its own, as they are asked for."""

    def __init__(self, teacher):
        self.teacher = teacher
        self.items = loader().dataset

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        image = self.items[index]["image"]
        return {"image": image, "mask": self.teacher(image[None]).argmax(1)[0]}


@promises
@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Subset(data, range(6))], ids=["whole", "subset"])
def test_networks_of_data_sets_are_found_in_loaders(wrap, make, tmp_path):
    module = Module()
    data = wrap(PseudoLabelled(copy.deepcopy(module.network).eval()))
    trainer = pl.Trainer(max_steps=9, callbacks=[make()], default_root_dir=tmp_path, **QUIET)
    with pytest.raises(MisconfigurationException, match="the training data holds a Sequential that the module does"):
        trainer.fit(module, DataLoader(data, batch_size=2))
    assert not list(tmp_path.rglob("weights.safetensors"))


class Counted(dict):
    """Counts how often somebody goes through it."""

    walks = 0

    def values(self):
        self.walks += 1
        return super().values()


class Cached(Dataset):
    def __init__(self):
        self.items = Counted(enumerate(loader().dataset))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_a_data_set_is_looked_through_once_though_samplers_hold_it_too(tmp_path):
    data = Cached()
    trainer = pl.Trainer(max_steps=4, callbacks=[Retrain()], default_root_dir=tmp_path, **QUIET)
    trainer.fit(Module(), DataLoader(data, batch_size=4, shuffle=True))
    assert data.items.walks == 1


class Shared(Module):
    """A teacher that all objects of a class share."""

    teacher = [nn.Conv2d(3, 2, 1)]  # noqa: RUF012


class Late(Module):
    """A teacher that is put in place when training starts."""

    def __init__(self, teacher):
        super().__init__()
        self.load = lambda: teacher

    def on_train_start(self):
        self.teachers = [self.load()]


@promises
@pytest.mark.parametrize("module", [Shared, lambda: Late(network())], ids=["class", "late"])
def test_a_teacher_of_a_class_or_one_that_comes_late_is_found(module, make, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"^teachers? holds a \w+ that the module does not know"):
        fit(module(), tmp_path, make())


class Store(Mapping):
    """Reads a file for each entry, and may be closed."""

    def __getitem__(self, name):
        raise AssertionError(f"{name} is read")

    def __iter__(self):
        return iter("ab")

    def __len__(self):
        return 2


class Honest(pl.LightningDataModule):
    """What data modules hold that have no network of their own."""

    def __init__(self, folder):
        super().__init__()
        np.savez(folder / "images.npz", images=np.zeros((2, 3)))
        self.archive = np.load(folder / "images.npz")
        self.archive.close()
        self.store = Store()
        self.scores = {"val": MetricCollection({"roc": ROC("binary", thresholds=50)})}
        with torch.device("meta"):
            self.skeleton = [nn.Conv2d(3, 2, 3)]
        self.nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
        self.gone = weakref.proxy(Store())

    def train_dataloader(self):
        return loader()


@promises
def test_data_modules_are_looked_through_without_reading_what_they_hold(make, tmp_path):
    trainer = pl.Trainer(max_steps=9, callbacks=[make()], default_root_dir=tmp_path, **QUIET)
    trainer.fit(Module(), datamodule=Honest(tmp_path))
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()


class LookAhead(torch.optim.Optimizer):
    """Wraps another, without its own constructor, as some do."""

    def __init__(self, inner):
        self.inner, self.param_groups, self.state, self.defaults = inner, inner.param_groups, {}, inner.defaults

    def step(self, closure=None):
        return self.inner.step(closure)


class Wrapped(Module):
    def configure_optimizers(self):
        return LookAhead(torch.optim.Adam(self.parameters()))


def test_an_optimiser_that_cannot_be_watched_is_named(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"LookAhead does not call Optimizer\.__init__"):
        fit(Wrapped(), tmp_path, Retrain())
