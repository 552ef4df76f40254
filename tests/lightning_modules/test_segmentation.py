"""Every network of the issue trains and is evaluated; windows, checkpoints, schedules and refusals."""

import functools
import json
import math

import lightning.pytorch as pl
import pytest
import torch
from monai.losses import DiceCELoss, TverskyLoss
from monai.networks.nets import AttentionUnet, BasicUNet, DynUNet, FlexibleUNet, SegResNet, SwinUNETR, UNet
from torch import nn
from torch.utils.data import DataLoader

from erode.batch import FIELDS, NO_PRIOR
from erode.lightning_modules import SegmentationModule
from erode.lightning_modules.segmentation import default_network
from erode.losses import RoleLoss

torch.set_num_threads(1)

NETWORKS = {
    "UNet": lambda k: UNet(2, 3, k, channels=(4, 8), strides=(2,)),
    "BasicUNet": lambda k: BasicUNet(2, 3, k, features=(4, 4, 8, 8, 8, 4)),
    "SegResNet": lambda k: SegResNet(2, 8, 3, k, norm=("GROUP", {"num_groups": 4})),
    "DynUNet": lambda k: DynUNet(2, 3, k, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8]),
    "DynUNet-deep": lambda k: DynUNet(
        2, 3, k, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4, 8, 8, 8], deep_supervision=True, deep_supr_num=2
    ),
    "FlexibleUNet": lambda k: FlexibleUNet(3, k, "efficientnet-b0", decoder_channels=(32, 16, 8, 8, 4)),
    "SwinUNETR": lambda k: SwinUNETR(3, k, feature_size=12, spatial_dims=2),
    "AttentionUnet": lambda k: AttentionUnet(2, 3, k, (4, 8), (2,)),
}


def item(seed, num_classes=3, spatial=(32, 32), channels=3):
    """A square of the image's class, brighter than what surrounds it."""
    generator = torch.Generator().manual_seed(seed)
    label = 1 + seed % (num_classes - 1)
    mask = torch.zeros(spatial, dtype=torch.long)
    mask[tuple(slice(size // 4, size // 4 + size // 3 + seed % 3) for size in spatial)] = label
    pixels = {"mask": mask, "coarse": mask.clone(), "prior": torch.full(spatial, NO_PRIOR)}
    whole = {"label": torch.tensor(label), "flag": torch.tensor(seed // 2 % 2), "counted": torch.tensor(True)}
    blank = {key: torch.zeros(spatial, dtype=FIELDS[key].dtype) for key in ("role", "artefact")}
    image = mask.float() + 0.3 * torch.randn(channels, *spatial, generator=generator)
    return {"image": image, **pixels, **blank, **whole, "id": f"case {seed}"}


def loader(count=8, batch_size=4, **options):
    return DataLoader([item(seed, **options) for seed in range(count)], batch_size=batch_size)


def trainer(folder, **options):
    return pl.Trainer(
        **{
            "accelerator": "cpu", "devices": 1, "max_steps": 2, "max_epochs": -1, "logger": False,
            "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
            "num_sanity_val_steps": 0, "default_root_dir": folder, **options,
        }
    )  # fmt: skip


# Networks --------------------------------------------------------------------------------------------------------


CASES = [("UNet", 2), ("BasicUNet", 4), *((name, 3) for name in NETWORKS)]


@pytest.mark.parametrize(("name", "num_classes"), CASES)
def test_every_network_trains_and_is_evaluated(name, num_classes, tmp_path):
    torch.manual_seed(0)
    module = SegmentationModule(NETWORKS[name](num_classes), num_classes=num_classes, bootstrap=0)
    before = [value.clone() for value in module.parameters()]
    side = 64 if name == "SwinUNETR" else 32  # five levels of halving, and normalisation needs two pixels
    data = loader(num_classes=num_classes, spatial=(side, side))
    run = trainer(tmp_path)
    run.fit(module, data, data)
    assert math.isfinite(run.callback_metrics["train/loss"])
    assert any(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    [values] = run.test(module, data, verbose=False)
    assert 0 <= values["test/dice_lesion"] <= 1
    assert values["test/foreground_correct"] + values["test/foreground_flip"] + values[
        "test/foreground_miss"
    ] == pytest.approx(1)
    [first, _] = run.predict(module, data)
    assert first["id"] == [f"case {seed}" for seed in range(4)]
    assert first["prediction"].shape == (4, side, side)
    assert first["probability"].shape == (4, num_classes, side, side)
    assert torch.allclose(first["probability"].sum(1), torch.ones(4, side, side))


def test_volumes_are_trained_and_tested(tmp_path):
    module = SegmentationModule(spatial_dims=3, in_channels=1, num_classes=2, bootstrap=0)
    data = loader(4, 2, num_classes=2, spatial=(16, 16, 16), channels=1)
    run = trainer(tmp_path)
    run.fit(module, data)
    [values] = run.test(module, data, verbose=False)
    assert 0 <= values["test/dice_lesion"] <= 1


def test_the_default_network_has_52_thousand_parameters_and_no_running_statistics():
    network = default_network(3)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(52_000, rel=0.02)
    assert not list(network.buffers())


def test_it_learns(tmp_path):
    """A bright square is an easy task: 60 steps are enough."""
    pl.seed_everything(0, verbose=False)
    module = SegmentationModule(bootstrap=0)
    run = trainer(tmp_path, max_steps=60)
    run.fit(module, loader(num_classes=2))
    [values] = run.test(module, loader(num_classes=2), verbose=False)
    assert values["test/dice_lesion"] > 0.9


def test_deep_supervision_weighs_coarser_heads_by_halves():
    class Heads(nn.Module):
        def forward(self, image):
            base = torch.stack([image[:, 0] * 0, image[:, 0]], dim=1)
            return torch.stack([base, 2 * base, 5 * base], dim=1)

    module = SegmentationModule(Heads(), num_classes=2)
    module.log = lambda *args, **kwargs: None  # there is no trainer to log to
    batch = torch.utils.data.default_collate([item(seed, num_classes=2) for seed in range(2)])
    base = torch.stack([batch["image"][:, 0] * 0, batch["image"][:, 0]], dim=1)
    losses = [RoleLoss()(scale * base, batch) for scale in (1, 2, 5)]
    expected = (losses[0] + losses[1] / 2 + losses[2] / 4) / 1.75
    torch.testing.assert_close(module.training_step(batch, 0), expected)


# Sliding window --------------------------------------------------------------------------------------------------


def test_an_image_that_fits_is_what_the_network_says():
    torch.manual_seed(0)
    network = NETWORKS["UNet"](2)
    whole, windowed = (SegmentationModule(network, patch_size=size).eval() for size in (None, (32, 48)))
    image = torch.randn(2, 3, 32, 48)
    assert torch.equal(whole(image), windowed(image))


@pytest.mark.parametrize("spatial", [(50, 71), (20, 90), (16, 17)])
def test_windows_are_stitched_into_the_whole(spatial):
    """A network that looks at each pixel alone does not care how the image is cut."""
    torch.manual_seed(0)
    module = SegmentationModule(nn.Conv2d(3, 2, 1), patch_size=(16, 16)).eval()
    image = torch.randn(2, 3, *spatial)
    with torch.inference_mode():
        torch.testing.assert_close(module(image), module.network(image), rtol=1e-4, atol=1e-5)


def test_windows_are_as_large_as_asked_and_training_uses_none():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.sizes = set()

        def forward(self, image):
            self.sizes.add(tuple(image.shape[2:]))
            return image[:, :2]

    module = SegmentationModule(Seen(), patch_size=(16, 24))
    module.eval()(torch.randn(1, 3, 40, 40))
    assert module.network.sizes == {(16, 24)}
    module.train()(torch.randn(1, 3, 40, 40))
    assert (40, 40) in module.network.sizes


@pytest.mark.parametrize("change", [{"patch_size": (16, 16)}, {"positive_class": 1}, {"bootstrap": 20}], ids=str)
def test_a_record_tells_other_evaluations_apart_and_defaults_add_nothing(change):
    plain = SegmentationModule(num_classes=3).describe()
    changed = SegmentationModule(num_classes=3, **change).describe()
    assert changed.keys() - plain.keys() == change.keys()
    assert SegmentationModule(num_classes=3, positive_class=2, bootstrap=1000).describe() == plain


def step(gamma):
    return functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=gamma)


def decay(rate):
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: rate**epoch)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr_scheduler": step(0.01)}, {"lr_scheduler": step(0.99)}),
        ({"lr_scheduler": decay(0.01)}, {"lr_scheduler": decay(0.99)}),
        ({"loss": TverskyLoss(alpha=0.1)}, {"loss": TverskyLoss(alpha=0.9)}),
        ({"loss": DiceCELoss(weight=torch.ones(2))}, {"loss": DiceCELoss(weight=torch.arange(2.0))}),
        ({"network": nn.Sequential(nn.Conv2d(3, 2, 1), nn.Dropout(0.1))}, {"network": nn.Conv2d(3, 2, 1)}),
    ],
    ids=["schedule", "schedule by a function", "loss", "weights of a loss", "network"],
)
def test_a_record_tells_apart_what_objects_were_told(one, other):
    records = [SegmentationModule(**told).describe() for told in (one, other, one)]
    assert records[0] == records[2] != records[1]
    json.dumps(records, allow_nan=False)


# Checkpoints -----------------------------------------------------------------------------------------------------


def test_checkpoints_load_without_code_and_in_plain_python(tmp_path):
    names = ["background", "a", "b"]
    module = SegmentationModule(num_classes=3, class_names=names, patch_size=(32, 32), positive_class=1)
    run = trainer(tmp_path, enable_checkpointing=True)
    run.fit(module, loader())
    path = run.checkpoint_callback.best_model_path
    content = torch.load(path, weights_only=True)
    assert content["hyper_parameters"]["class_names"] == names
    again = SegmentationModule.load_from_checkpoint(path)
    assert again.class_names == module.class_names
    assert again.testing.positive_class == 1
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.eval()(image), module.eval()(image))


def test_a_checkpoint_of_another_network_wants_that_network(tmp_path):
    module = SegmentationModule(NETWORKS["SegResNet"](2), optimizer=torch.optim.SGD, lr_scheduler=None)
    run = trainer(tmp_path, enable_checkpointing=True)
    run.fit(module, loader(num_classes=2))
    path = run.checkpoint_callback.best_model_path
    torch.load(path, weights_only=True)
    again = SegmentationModule.load_from_checkpoint(path, network=NETWORKS["SegResNet"](2))
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.eval()(image), module.eval()(image))


# Optimisers and schedules ----------------------------------------------------------------------------------------


def rates(folder, **options):
    """The learning rate of each step of a run of two epochs of four steps."""
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

        def on_train_end(self, trainer, *_):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = SegmentationModule(num_classes=3, optimizer=lambda p: torch.optim.SGD(p, lr=0.5), **options)
    trainer(folder, max_steps=8, callbacks=[Watch()]).fit(module, loader(16))
    return seen


def test_rates_follow_the_schedule_that_is_asked_for(tmp_path):
    assert rates(tmp_path, lr_scheduler=None) == [0.5] * 9
    cosine = [0.25 * (1 + math.cos(math.pi * step / 8)) for step in range(9)]
    assert rates(tmp_path) == pytest.approx(cosine, abs=1e-12)
    halved = rates(tmp_path, lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    assert halved == [0.5] * 4 + [0.25] * 4 + [0.125]  # once an epoch


# Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "counts the background, so it is at least 2; got 1"),
        ({"num_classes": 3, "class_names": ["a", "b"]}, r"3 classes need as many class_names.*\['a', 'b'\]"),
        ({"num_classes": 3, "positive_class": 0}, r"positive_class must be one of 1\.\.2, got 0"),
        ({"num_classes": 3, "positive_class": 3}, r"positive_class must be one of 1\.\.2, got 3"),
        ({"patch_size": (32, 32, 32)}, "patch_size needs 2 entries"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SegmentationModule(**arguments)


def test_data_with_more_classes_than_the_model_is_refused_before_the_first_step(tmp_path):
    module = SegmentationModule(num_classes=2)
    run = trainer(tmp_path)
    with pytest.raises(ValueError, match="set num_classes of the model to that of the data"):
        run.fit(module, loader(num_classes=4))
    assert run.global_step == 0


def test_a_network_with_other_classes_than_the_model_is_refused_before_the_first_step(tmp_path):
    module = SegmentationModule(NETWORKS["UNet"](4), num_classes=3)
    run = trainer(tmp_path)
    with pytest.raises(
        ValueError, match=r"UNet gives logits \[4, 4, 32, 32\] where num_classes = 3 needs \[4, 3, 32, 32\]"
    ):
        run.fit(module, loader(num_classes=3))
    assert run.global_step == 0
