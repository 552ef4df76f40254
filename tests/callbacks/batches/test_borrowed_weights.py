"""A forward pass with other weights: what it computes, and that nothing of them stays."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from monai.networks.nets import DynUNet
from noisy_runs import Module, Watch, fit
from torch import nn
from torch.utils.data import DataLoader

from erode.callbacks import FineTune, GradientClipping, PredictionGallery, Retrain, Scrub, SpuriousInformationMonitor
from erode.callbacks.batches.borrowed_weights import call_with, named_tensors
from erode.weights import state_digest


def two_names():
    """One layer under two names, as the supervised levels of DynUNet."""
    layer = nn.Linear(3, 3)
    return nn.ModuleDict({"first": layer, "second": layer})


class Chain(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.parts = (
            two_names() if kind == "one layer, two names" else nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        )
        self.parts.register_buffer("shift", torch.ones(3))
        if kind == "tied tensors":
            self.parts[1].weight = self.parts[0].weight

    def forward(self, x):
        for part in self.parts.values() if isinstance(self.parts, nn.ModuleDict) else self.parts:
            x = part(x) + self.parts.shift
        return x


@pytest.mark.parametrize("kind", ["one layer, two names", "tied tensors", "plain"])
def test_the_modules_own_weights_are_back_afterwards(kind):
    module, other = Chain(kind), Chain(kind)
    other.load_state_dict({name: torch.randn_like(tensor) for name, tensor in other.state_dict().items()})
    if kind == "one layer, two names":
        other.load_state_dict(
            {name: other.state_dict()[name.replace("second", "first")] for name in other.state_dict()}
        )
    own = named_tensors(module)
    before = state_digest(module.state_dict())
    x = torch.randn(2, 3)
    assert torch.equal(call_with(module, named_tensors(other), x), other(x))
    after = named_tensors(module)
    assert after.keys() == own.keys()
    assert all(after[name] is own[name] for name in own)
    assert state_digest(module.state_dict()) == before


def test_weights_come_back_from_a_failure():
    module = Chain("one layer, two names")
    own = named_tensors(module)
    with pytest.raises(RuntimeError):
        call_with(module, {name: torch.zeros(2) for name in own}, torch.randn(2, 3))
    assert all(named_tensors(module)[name] is own[name] for name in own)


class Deep(pl.LightningModule):
    """DynUNet names most of its layers twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = DynUNet(2, 3, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 4, 4])

    def forward(self, image):
        return self.network(image)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch["image"]), batch["mask"])

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def items():
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        mask = torch.zeros(16, 16, dtype=torch.long)
        mask[4:9, 4:9] = 1
        image = torch.randn(3, 16, 16, generator=generator)
        yield {"image": image, "mask": mask, "coarse": mask, "artefact": torch.zeros(16, 16, dtype=torch.uint8)}


@pytest.mark.parametrize(
    "operator",
    [Retrain(), GradientClipping(steps=2, shrink=False), Scrub(msteps=1, max_phase=1, min_phase=2, role_key=None)],
    ids=lambda operator: type(operator).__name__,
)
def test_who_watches_a_network_with_two_names_does_not_bring_the_original_back(tmp_path, operator):
    module, data = Deep(), list(items())
    original = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    loader = DataLoader(data, batch_size=2)
    loaders = {"retain": loader, "forget": loader} if isinstance(operator, Scrub) else loader
    trainer = pl.Trainer(
        max_steps=6, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
        callbacks=[operator, SpuriousInformationMonitor(2), PredictionGallery(2)],
    )  # fmt: skip
    trainer.fit(module, loaders, loader)
    assert json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())["completed"]
    moved = [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, original[name])]
    assert len(moved) > 0.9 * len(original)


def replace(trainer, module):
    layer = module.network[0]
    layer.weight = nn.Parameter(layer.weight.detach().clone())


@pytest.mark.parametrize("operator_class", [FineTune, Retrain, GradientClipping])
def test_a_run_whose_parameters_were_replaced_releases_nothing(tmp_path, operator_class):
    """The optimiser then trains tensors that the module no longer holds."""
    operator = operator_class(**({"steps": 2} if operator_class is GradientClipping else {}))
    with pytest.raises(MisconfigurationException, match=r"network\.0\.weight was replaced"):
        fit(Module(), tmp_path, operator, Watch(4, replace))
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()
    saving = Watch(5, lambda trainer, module: trainer.save_checkpoint(tmp_path / "bad.ckpt"))
    with pytest.raises(MisconfigurationException, match=r"network\.0\.weight was replaced"):
        fit(Module(), tmp_path / "b", operator, Watch(4, replace), saving)
    assert not (tmp_path / "bad.ckpt").exists()
