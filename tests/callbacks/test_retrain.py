"""Exactness: what is released is a function of retained data and the anchor alone, bit for bit."""

import json
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
)
from monai.networks.nets import AttentionUnet, BasicUNet, DynUNet, FlexibleUNet, SegResNet, SwinUNETR, UNet
from torch import nn
from torch.utils.data import DataLoader

from erode.callbacks import FineTune, GradientClipping, Retrain
from erode.callbacks.guards.reset import reset_parameters, unresettable
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.weights import save_weights, weights_digest

NETWORKS = {
    "UNet": lambda: UNet(2, 3, 2, channels=(4, 8), strides=(2,), norm="BATCH"),
    "BasicUNet": lambda: BasicUNet(2, 3, 2, features=(4, 4, 8, 8, 8, 4)),
    "SegResNet": lambda: SegResNet(2, 8, 3, 2),
    "DynUNet": lambda: DynUNet(2, 3, 2, [3, 3, 3], [1, 2, 2], [2, 2]),
    "AttentionUnet": lambda: AttentionUnet(2, 3, 2, (4, 8), (2,)),
    "FlexibleUNet": lambda: FlexibleUNet(3, 2, "efficientnet-b0"),
    "SwinUNETR": lambda: SwinUNETR(3, 2, feature_size=12, spatial_dims=2),
}


class Module(pl.LightningModule):
    def __init__(self, network=None):
        super().__init__()
        self.network = network or UNet(2, 3, 2, channels=(4, 8), strides=(2,), norm="BATCH")

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.network(batch["image"]), batch["mask"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def batches():
    generator = torch.Generator().manual_seed(1)
    items = [
        {
            "image": torch.randn(3, 16, 16, generator=generator),
            "mask": torch.randint(0, 2, (16, 16), generator=generator),
        }
        for _ in range(8)
    ]
    return DataLoader(items, batch_size=4)


def fit(module, folder, *callbacks, loader=None, max_steps=4, ckpt_path=None):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=max_steps, callbacks=list(callbacks), default_root_dir=folder,
        logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader or batches(), ckpt_path=ckpt_path)
    return trainer


def test_two_models_trained_on_different_forget_sets_end_bit_equal(tmp_path):
    """Weights and running statistics of the start leave no trace in the released ones."""
    released = []
    for number in range(2):
        pl.seed_everything(number, verbose=False)
        module = Module()
        for _ in range(3):  # two different pasts: other weights, other running statistics
            module.network(torch.randn(4, 3, 16, 16) * (1 + number))
        pl.seed_everything(7, verbose=False)
        fit(module, tmp_path / str(number), Retrain())
        released.append(weights_digest(module))
    assert released[0] == released[1]


def test_an_anchor_is_where_it_starts(tmp_path):
    anchor = Module()
    path = save_weights(anchor, tmp_path / "anchor.safetensors")
    module = Module()
    original = weights_digest(module)
    fit(module, tmp_path, Retrain(anchor=path))
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert record["anchor_weights"] == weights_digest(anchor)
    assert original not in str(record)  # its hash would let anyone test a guess of the original weights
    assert (record["epsilon"], record["delta"], record["guarantee"]) == (0.0, 0.0, "exact")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_monai_network_can_be_re_initialised_or_is_refused(name):
    """Either no trained value survives, or the network is named as one that needs an anchor."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    if unresettable(network):
        assert name in ("FlexibleUNet", "SwinUNETR")
        return
    marked = 12.25
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(marked)
    reset_parameters(network)
    assert not [k for k, v in network.state_dict().items() if v.is_floating_point() and bool((v == marked).any())]


def test_parameters_without_a_reset_are_refused(tmp_path):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x * self.factor

    module = Module(nn.Sequential(nn.Conv2d(3, 2, 1), Scale()))
    with pytest.raises(MisconfigurationException, match=r"network\.1\.factor.*Give anchor=WEIGHTS"):
        fit(module, tmp_path, Retrain())


def test_a_loader_that_serves_forget_atoms_is_refused(tmp_path):
    items = [{"image": torch.randn(3, 16, 16), "mask": torch.zeros(16, 16, dtype=torch.long),
              "role": torch.ones(16, 16, dtype=torch.uint8)}] * 4  # fmt: skip
    with pytest.raises(MisconfigurationException, match="still serves forget atoms to Retrain"):
        fit(Module(), tmp_path, Retrain(), loader=DataLoader(items, batch_size=2))


class Validated(Module):
    def validation_step(self, batch, index):
        self.log("score", nn.functional.cross_entropy(self.network(batch["image"]), batch["mask"]))


def test_validation_that_serves_forget_atoms_is_refused(tmp_path):
    """It would stop the run, or choose among its weights, by the labels that are to be forgotten."""
    items = [{"image": torch.randn(3, 16, 16), "mask": torch.zeros(16, 16, dtype=torch.long),
              "role": torch.ones(16, 16, dtype=torch.uint8)}] * 2  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, callbacks=[Retrain()], default_root_dir=tmp_path, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(MisconfigurationException, match="a validation loader serves forget atoms to Retrain"):
        trainer.fit(Validated(), batches(), DataLoader(items, batch_size=2))
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


@pytest.mark.parametrize("operator", [Retrain, FineTune, partial(GradientClipping, steps=1)])
def test_a_loader_of_fine_masks_by_hand_is_refused(operator, tmp_path):
    """The ideal: what it says of coarse images is in no retained atom (theory §1). Without an operator it trains."""
    data = SyntheticDermoscopy(train_images=8, size=32, fine_fraction=0.25, view="fine", batch_size=8, flips=False)
    data.setup("fit")
    fit(SegmentationModule(num_classes=data.num_classes), tmp_path, loader=data.train_dataloader(), max_steps=1)
    with pytest.raises(MisconfigurationException, match="still serves forget atoms"):
        fit(SegmentationModule(num_classes=data.num_classes), tmp_path, operator(), loader=data.train_dataloader())
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_forget_atoms_may_be_looked_at_after_the_run(tmp_path):
    items = [{"image": torch.randn(3, 16, 16), "mask": torch.zeros(16, 16, dtype=torch.long),
              "role": torch.ones(16, 16, dtype=torch.uint8)}] * 2  # fmt: skip
    module = Validated()
    trainer = fit(module, tmp_path, Retrain())
    assert trainer.validate(module, DataLoader(items, batch_size=2), verbose=False)


def test_nothing_is_overwritten(tmp_path):
    fit(Module(), tmp_path, FineTune())
    before = (tmp_path / "unlearned" / "unlearning.json").read_bytes()
    with pytest.raises(MisconfigurationException, match="already holds an unlearning run"):
        fit(Module(), tmp_path, Retrain())
    assert (tmp_path / "unlearned" / "unlearning.json").read_bytes() == before


def test_one_operator_per_run(tmp_path):
    with pytest.raises(MisconfigurationException, match="FineTune, Retrain in one run"):
        fit(Module(), tmp_path, FineTune(), Retrain())


def test_a_checkpoint_of_the_original_training_is_not_resumed(tmp_path):
    """Its optimiser state was computed on the forget set; only a run of the operator's own goes on, and ends."""
    module = Module()
    original = fit(module, tmp_path)
    original.save_checkpoint(tmp_path / "original.ckpt")
    with pytest.raises(MisconfigurationException, match="no checkpoint of a Retrain run"):
        fit(module, tmp_path, Retrain(), ckpt_path=tmp_path / "original.ckpt")
    cut = fit(module, tmp_path / "cut", Retrain(), max_steps=2)
    cut.save_checkpoint(tmp_path / "cut.ckpt")
    half_way = weights_digest(module)
    seen = []

    class See(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(weights_digest(pl_module))

    fit(Module(), tmp_path / "on", Retrain(), See(), ckpt_path=tmp_path / "cut.ckpt")
    assert seen == [half_way]
    record = json.loads((tmp_path / "on" / "unlearned" / "unlearning.json").read_text())
    assert (record["completed"], record["steps"]) == (True, 4)


class Forgetful(nn.Conv2d):
    """Its reset forgets a parameter and a buffer."""

    def __init__(self):
        super().__init__(3, 2, 1)
        self.gain = nn.Parameter(torch.ones(1))
        self.register_buffer("prototype", torch.ones(1))

    def forward(self, x):
        return super().forward(x) * self.gain + self.prototype


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (Forgetful, r"network\.gain, network\.prototype"),
        (lambda: torch.nn.utils.weight_norm(nn.Conv2d(3, 2, 1)), r"network\.weight_g, network\.weight_v"),
        (lambda: torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 1)), r"weight\.original0"),
    ],
    ids=["own layer", "weight_norm", "parametrization"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_a_reset_that_misses_something_is_found_by_trying(tmp_path, layer, named):
    module = Module(layer())
    before = weights_digest(module)
    with pytest.raises(MisconfigurationException, match=named):
        fit(module, tmp_path, Retrain())
    assert weights_digest(module) == before


def test_the_anchor_cannot_be_what_is_to_be_unlearned(tmp_path):
    module = Module()
    with pytest.raises(MisconfigurationException, match="the very weights that are to be unlearned"):
        fit(module, tmp_path, Retrain(anchor=save_weights(module, tmp_path / "trained.safetensors")))


def test_weight_averaging_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="averages in the weights from before"):
        fit(Module(), tmp_path, EMAWeightAveraging(), Retrain())


def test_an_optimiser_that_remembers_weights_starts_anew(tmp_path):
    class Lookahead(torch.optim.SGD):
        """Keeps a slow copy of the weights from its own beginning."""

        def __init__(self, parameters, **options):
            super().__init__(parameters, **options)
            self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

        def step(self, closure=None):
            loss = super().step(closure)
            with torch.no_grad():
                for p, slow in zip((p for g in self.param_groups for p in g["params"]), self.slow, strict=True):
                    p.lerp_(slow, 0.5)
            return loss

    class Remembering(Module):
        def configure_optimizers(self):
            return Lookahead(self.parameters(), lr=1e-3)

    module = Remembering()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1000.0)
    fit(module, tmp_path, Retrain())
    assert max(p.abs().max().item() for p in module.parameters()) < 10


def test_another_continuation_is_refused(tmp_path):
    module = Module()
    fit(module, tmp_path, Retrain(only_fine=True), max_steps=2).save_checkpoint(tmp_path / "cut.ckpt")
    with pytest.raises(MisconfigurationException, match="another settings and view"):
        fit(module, tmp_path / "on", Retrain(), ckpt_path=tmp_path / "cut.ckpt")


def test_weights_that_diverged_are_not_released(tmp_path):
    class Diverging(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e30)

    fit(Diverging(), tmp_path, Retrain())
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert record["completed"] is False
    assert "not finite" in record["why"]
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_a_late_error_leaves_the_release_as_it_is(tmp_path):
    class Late(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fit(Module(), tmp_path, Retrain(), Late())
    assert json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())["completed"] is True


# What would bring the original weights back, or hide what is trained on ------------------------------------------


class Remembers(Module):
    """A teacher in a list, so that it is not saved: the usual recipe of distillation."""

    def __init__(self):
        super().__init__()
        self.teachers = {"old": [nn.Conv2d(3, 2, 1)]}


class OneOptimizer(Module):
    """Gives the optimiser that was built with the module, which may have copied its weights."""

    def __init__(self):
        super().__init__()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def configure_optimizers(self):
        return self.optimizer


class Fetches(Module):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return super().training_step(batch, 0)


@pytest.mark.parametrize(
    ("make", "callback", "message"),
    [
        (Module, lambda: ModelPruning("l1_unstructured", amount=0.5), "ModelPruning keeps a copy of the weights"),
        (Module, lambda: StochasticWeightAveraging(1e-2, swa_epoch_start=50), "copies the weights from before"),
        (Module, lambda: LearningRateFinder(), "LearningRateFinder takes trial steps"),
        (Remembers, None, r"teachers holds a Conv2d that the module does not know, such as a teacher"),
        (OneOptimizer, None, "configure_optimizers gave a SGD that was used before"),
        (Fetches, None, "fetches its own batches"),
    ],
    ids=["pruning", "swa", "learning rate", "teacher", "optimiser", "iterator"],
)
def test_what_could_bring_the_original_weights_back_is_refused(make, callback, message, tmp_path):
    with pytest.raises(MisconfigurationException, match=message):
        fit(make(), tmp_path, *([callback()] if callback else []), Retrain())
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_a_data_module_may_call_something_else_its_split(tmp_path):
    class Theirs(pl.LightningDataModule):
        split = 0.8

        def train_dataloader(self):
            return batches()

    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=2, callbacks=[Retrain()], default_root_dir=tmp_path, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), datamodule=Theirs())
    assert json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())["split"] is None


def test_the_record_says_on_what_the_guarantee_rests(tmp_path):
    fit(Module(), tmp_path, Retrain())
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert any("nothing outside of the module" in assumption for assumption in record["assumptions"])


class Positions(Module):
    """A constant of which all rows are one place in memory."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 2, 1))
        self.register_buffer("positions", torch.arange(5).expand(3, -1))


def test_an_expanded_constant_stays_as_it_is(tmp_path):
    module = Positions()
    fit(module, tmp_path, Retrain())
    assert (tmp_path / "unlearned" / "weights.safetensors").exists()
    assert torch.equal(module.positions, torch.arange(5).expand(3, -1))
    with pytest.raises(MisconfigurationException, match="positions was expanded"):
        fit(Positions(), tmp_path / "b", Retrain(anchor=tmp_path / "unlearned" / "weights.safetensors"))
