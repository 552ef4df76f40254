import copy

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from monai.networks.nets import UNet
from torch import nn
from torch.utils.data import DataLoader

from erode.callbacks import GradientReversal, Retrain
from erode.callbacks.batches.bottleneck import find_bottleneck
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import ImageClassifier, SegmentationModule

OPTIONS = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
}


class Shortcut(LightningModule):
    """Two input channels tell the class: one always, one (the artefact) too; features can carry either or both."""

    def __init__(self, parameters=None):
        super().__init__()
        self.body = nn.Conv2d(2, 2, 1, bias=False)
        self.head = nn.Linear(2, 2)
        self._only = parameters

    def forward(self, image):
        return self.head(self.body(image).mean((2, 3)))

    def training_step(self, batch, batch_idx):
        return {"loss": nn.functional.cross_entropy(self(batch["image"]), batch["label"])}

    def configure_optimizers(self):
        chosen = self.parameters() if self._only is None else getattr(self, self._only).parameters()
        optimizer = torch.optim.Adam(chosen, lr=0.05)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1000)}


def loader(correlation=0.8, n=256):
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(n) % 2
    same = torch.rand(n, generator=generator) < (1 + correlation) / 2
    artefact = torch.where(same, label, 1 - label)
    values = torch.stack([2.0 * label - 1, 2.0 * artefact - 1], 1)
    values += torch.tensor([1.0, 0.5]) * torch.randn(n, 2, generator=generator)  # the lesion is the harder cue
    items = [
        {"image": v[:, None, None].expand(2, 2, 2).contiguous(), "label": y, "flags": {"ink": a}}
        for v, y, a in zip(values, label, artefact, strict=True)
    ]
    return DataLoader(items, batch_size=64, shuffle=True)


def fit(model, strength, tmp_path, *more, **options):
    seed_everything(0, verbose=False)
    callback = GradientReversal(["ink"], strength=strength, image_shape=(2, 2, 2))
    trainer = Trainer(
        **OPTIONS, enable_checkpointing=False, callbacks=[callback, *more], default_root_dir=tmp_path, **options
    )
    trainer.fit(model, loader())
    return callback


class Witness(Callback):
    """Keeps weights, batch and gradients of the last step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch = batch
        self.model = copy.deepcopy(pl_module.state_dict())

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters()}


def test_the_head_descends_what_the_features_ascend(tmp_path):
    """Against gradients taken by hand."""
    witness, model = Witness(), Shortcut()
    callback = fit(model, 0.7, tmp_path, witness, max_steps=4)
    strength = callback.strength_at(3 / 4)
    assert 0.6 < strength < 0.7
    weights = {name: tensor.requires_grad_() for name, tensor in witness.model.items()}
    features = nn.functional.conv2d(witness.batch["image"], weights["body.weight"])
    pooled = features.mean((2, 3))
    task = nn.functional.cross_entropy(
        nn.functional.linear(pooled, weights["head.weight"], weights["head.bias"]), witness.batch["label"]
    )
    hidden = nn.functional.linear(pooled, weights["artefact_head.0.weight"], weights["artefact_head.0.bias"]).relu()
    logit = nn.functional.linear(hidden, weights["artefact_head.2.weight"], weights["artefact_head.2.bias"])
    flags = witness.batch["flags"]["ink"].float()
    seen = nn.functional.binary_cross_entropy_with_logits(logit[:, 0], flags)
    names = sorted(weights)
    of_task = torch.autograd.grad(task, [weights[n] for n in names], allow_unused=True, retain_graph=True)
    of_seen = torch.autograd.grad(seen, [weights[n] for n in names], allow_unused=True)
    for name, ours, theirs in zip(names, of_task, of_seen, strict=True):
        sign = 1 if name.startswith("artefact_head") else -strength
        wanted = (0 if ours is None else ours) + (0 if theirs is None else sign * theirs)
        torch.testing.assert_close(witness.gradients[name], wanted)
    assert {name.split(".")[0] for name in model.state_dict()} == {"body", "head"}
    assert "training_step" not in vars(model)


def test_the_head_is_trained_by_an_optimiser_that_knew_nothing_of_it(tmp_path):
    witness = Witness()
    fit(Shortcut(parameters="body"), 0.0, tmp_path, witness, max_steps=1)
    before = witness.model
    fit(Shortcut(parameters="body"), 0.0, tmp_path, witness, max_steps=2)
    assert not torch.equal(before["artefact_head.0.weight"], witness.model["artefact_head.0.weight"])
    assert torch.equal(before["head.weight"], witness.model["head.weight"])


def test_reversal_makes_the_model_rely_less_on_the_artefact(tmp_path):
    plain, against = Shortcut(), Shortcut()
    against.load_state_dict(plain.state_dict())
    fit(plain, 0.0, tmp_path, max_epochs=12)
    fit(against, 1.0, tmp_path, max_epochs=12)
    assert reliance(against) < 0.7 * reliance(plain)


def reliance(model):
    """How far the logit of class 1 moves with the artefact, relative to how far it moves with the lesion."""
    with torch.no_grad():
        weight = (model.head.weight[1] - model.head.weight[0]) @ model.body.weight[:, :, 0, 0]
    return (weight[1] / weight[0]).abs().item()


def test_the_bottleneck_of_known_networks():
    unet = UNet(2, 3, 3, channels=(8, 16, 32, 64), strides=(2, 2, 2), num_res_units=1)
    found = find_bottleneck(unet)
    assert found.channels == 96  # 64 of the bottom, and the 32 that skip it
    shapes = []
    found.layer.register_forward_hook(lambda *a: shapes.append(a[2].shape))
    unet(torch.zeros(2, 3, 64, 64))
    assert shapes == [(2, 96, 8, 8)]
    assert find_bottleneck(SegmentationModule(num_classes=3)).name == f"network.{found.name}"
    assert find_bottleneck(nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU()), "0")[::2] == ("0", 4)
    with pytest.raises(MisconfigurationException, match=r"ran no layer 'x' .*; set layer to one of them"):
        find_bottleneck(unet, "x")
    with pytest.raises(MisconfigurationException, match="no convolution that tells"):
        find_bottleneck(nn.Linear(3, 3))
    with pytest.raises(MisconfigurationException, match=r"cannot be tried on an image \[1, 4, 4\]"):
        find_bottleneck(unet, image_shape=(1, 4, 4))


def data(**options):
    return SyntheticDermoscopy(size=32, train_images=24, val_images=2, test_images=6, batch_size=8, **options)


def test_an_image_classifier_keeps_the_same_loss_and_loses_the_head(tmp_path):
    """Its optimiser is made of its network alone."""
    model = ImageClassifier(num_classes=3)
    names = set(model.state_dict())
    trainer = Trainer(
        **OPTIONS, enable_checkpointing=False, max_steps=2, callbacks=[GradientReversal(["ruler", "ink"])]
    )
    trainer.fit(model, datamodule=data(validate_data=False))
    assert set(model.state_dict()) == names
    assert 0.3 < trainer.callback_metrics["train/artefact_loss"] < 1.5


def test_checkpoints_of_the_run_are_resumed_to_the_bit(tmp_path):
    def fit(steps, ckpt=None):
        seed_everything(1, verbose=False)
        model = SegmentationModule(num_classes=3, bootstrap=0, lr_scheduler=None)
        source = data(flips=False)
        source.train_dataloader = lambda: DataLoader(source.dataset("train"), batch_size=8)
        trainer = Trainer(
            **OPTIONS, max_steps=steps, callbacks=[GradientReversal(["ruler", "ink"])], default_root_dir=tmp_path
        )
        trainer.fit(model, datamodule=source, ckpt_path=ckpt)
        return model, trainer

    whole, _ = fit(6)
    _, half = fit(3)
    # The schedule of λ asks for the planned steps, so the half run differs; what is resumed twice must not.
    path = half.checkpoint_callback.best_model_path
    first, _ = fit(6, path)
    second, _ = fit(6, path)
    assert whole.state_dict().keys() == first.state_dict().keys()
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert "artefact_head.0.weight" in torch.load(path, weights_only=True)["state_dict"]


def test_unknown_flags_teach_nothing_and_wrong_ones_are_named(tmp_path):
    callback = GradientReversal(["ruler", "tattoo"])
    with pytest.raises(MisconfigurationException, match="no flag 'tattoo', only any, ruler"):
        Trainer(**OPTIONS, max_steps=1, callbacks=[callback], default_root_dir=tmp_path).fit(
            SegmentationModule(num_classes=3), datamodule=data()
        )
    assert callback._flags({"flags": torch.tensor([[1, -1]])}).tolist() == [[1, -1]]
    with pytest.raises(MisconfigurationException, match=r"flags \[2, 1\] for 2 artefacts"):
        callback._flags({"flags": torch.tensor([1, 0])})
    with pytest.raises(MisconfigurationException, match="leave it out of unlearning runs"):
        Trainer(**OPTIONS, max_steps=1, callbacks=[GradientReversal(["ink"]), Retrain()]).fit(
            SegmentationModule(num_classes=3), datamodule=data()
        )
    with pytest.raises(ValueError, match="at least one artefact"):
        GradientReversal([])
    with pytest.raises(ValueError, match="hidden unit"):
        GradientReversal(["ink"], hidden=0)
