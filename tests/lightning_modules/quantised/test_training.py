"""Quantised training: weights are the same bit for bit without any samples within the budget; real fits."""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from quantised_runs import Module, Plain, data, fit
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import QuantisedSegmentationModule, QuantisedTraining
from erode.lightning_modules.quantised.per_sample import samples_of
from erode.weights import weights_digest


def pulling(seed, size=30):
    """Far from the optimum, where five samples in six pull one way and the first ones the other."""
    generator = torch.Generator().manual_seed(seed)
    images = 1 + 0.3 * torch.randn(size, 1, 6, 6, generator=generator)
    signs = torch.where(torch.arange(size) < size // 6, -3.0, 3.0).view(-1, 1, 1, 1)
    return TensorDataset(images, images * signs)


def small(seed):
    torch.manual_seed(seed)
    return Module(nn.Conv2d(1, 1, 1), bound=0.05, kappa=0.02, smoothing=0.02)


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6), draw=st.randoms(use_true_random=False))
def test_removing_samples_within_the_budget_leaves_the_weights_bit_for_bit(seed, draw, tmp_path_factory):
    """Another order, other batches, fewer samples: not one bit differs."""
    folder = tmp_path_factory.mktemp("runs")
    dataset = pulling(seed)
    whole = fit(dataset, folder, steps=4, seed=seed, module=small(seed))
    withstood = whole.removal()["removals_withstood"]
    assert withstood >= 1
    removed = draw.sample(range(30), draw.randint(1, withstood))
    rest = Subset(dataset, [index for index in range(30) if index not in removed])
    again = fit(rest, folder, steps=4, batch_size=7, seed=seed, module=small(seed))
    assert weights_digest(again) == weights_digest(whole)


def test_budgets_are_not_always_zero_and_removals_beyond_them_can_be_seen(tmp_path):
    """Else the test above would be empty."""
    dataset = pulling(0)
    whole = fit(dataset, tmp_path, steps=4, module=small(0))
    withstood = whole.removal()["removals_withstood"]
    assert 3 <= withstood <= 20
    against = [index for index, (_, target) in enumerate(dataset) if target.mean() < 0]
    few = fit(Subset(dataset, [*against, 29]), tmp_path, steps=4, module=small(0))
    assert weights_digest(few) != weights_digest(whole)


def test_a_module_without_the_mixin_does_depend_on_one_sample(tmp_path):
    digests = []
    for size in (30, 29):
        torch.manual_seed(0)
        module = Plain()
        trainer = pl.Trainer(accelerator="cpu", devices=1, max_steps=4, logger=False, default_root_dir=tmp_path,
                             enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        trainer.fit(module, DataLoader(Subset(data(0, 30, 3.0), range(size)), 30))
        digests.append(weights_digest(module))
    assert digests[0] != digests[1]


def test_the_step_is_the_smoothed_sign_of_the_clipped_mean(tmp_path):
    class Once(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    dataset = data()
    module = Once(bound=0.05, kappa=0.02, smoothing=0.02)
    start = [p.detach().clone() for p in module.parameters()]
    mean = [torch.zeros_like(p, dtype=torch.float64) for p in start]
    for image, target in dataset:
        loss = nn.functional.mse_loss(module.network(image[None]), target[None])
        for total, gradient in zip(mean, torch.autograd.grad(loss, module.parameters()), strict=True):
            total += gradient.double().clamp(-0.05, 0.05) / len(dataset)
    fit(dataset, tmp_path, module=module, steps=1)
    threshold = module.threshold / 2**30 * 0.05
    for before, after, gradient in zip(start, module.parameters(), mean, strict=True):
        assert torch.equal(after.detach(), before - (gradient.sign() * (gradient.abs() > threshold)).float())


def test_the_record_says_what_the_run_withstands(tmp_path):
    module = fit(data(far=3.0), tmp_path, steps=3)
    record = json.loads((tmp_path / "removal.json").read_text())
    assert record == module.removal()
    assert record["guarantee"] == module.card.guarantee == "exact"
    assert (record["samples"], record["steps"], record["completed"]) == (24, 3, True)
    assert sum(record["budget_counts"]) == 3 * record["coordinates"]
    withstood = record["removals_withstood"]
    assert record["certified_fraction"][withstood] == 1.0
    assert record["certified_fraction"][withstood + 1] < 1.0
    assert record["released_weights"] == weights_digest(module)


def test_runs_of_weights_and_biases_do_not_write_over_one_another(tmp_path):
    for run in ("one", "other"):
        logger = WandbLogger(project="erode", version=run, save_dir=tmp_path, offline=True)
        fit(data(far=3.0), tmp_path, steps=2, logger=logger)
        logger.experiment.finish()
    assert {file.parent.name for file in tmp_path.rglob("removal.json")} == {"one", "other"}


def test_a_run_that_was_cut_short_starts_anew(tmp_path):
    kept = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{step}", save_on_train_epoch_end=True)
    fit(data(far=3.0), tmp_path, kept, steps=5)
    with pytest.raises(MisconfigurationException, match="budgets are those of one whole run; start anew"):
        fit(data(far=3.0), tmp_path, steps=5, ckpt_path=tmp_path / "step=3.ckpt")


def test_segmentation_with_roles_and_the_default_network(tmp_path):
    size = 4
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(size, 16, 16, generator=generator) > 0.5).long()
    items = [
        {
            "image": torch.randn(3, 16, 16, generator=generator), "mask": mask[i], "coarse": mask[i],
            "role": torch.zeros(16, 16, dtype=torch.uint8), "prior": -torch.ones(16, 16), "label": torch.tensor(1),
            "artefact": torch.zeros(16, 16, dtype=torch.uint8), "flag": torch.tensor(0),
            "counted": torch.tensor(True), "id": str(i),
        }
        for i in range(size)
    ]  # fmt: skip
    module = QuantisedSegmentationModule()
    before = weights_digest(module)
    fit(None, tmp_path, module=module, steps=2, loader=DataLoader(items, 3))
    assert module.removal()["steps"] == 2
    assert weights_digest(module) != before
    assert module.describe()["kappa"] == 0.01


def test_a_data_module_of_ours_serves_each_image_once_and_unflipped_meanwhile(tmp_path):
    """Ten images in batches of four, mirrored as a rule and without the incomplete batch."""
    source = SyntheticDermoscopy(
        size=32, train_images=10, val_images=2, test_images=2, batch_size=4, fine_fraction=0.5, num_workers=0
    )
    source.serve("coarse")
    module = QuantisedSegmentationModule(num_classes=3)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=2, logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=source)
    assert (module.removal()["samples"], module.removal()["steps"]) == (10, 2)
    assert len(source.train_dataloader()) == 2  # again as ever


class Numbered(Plain):
    numbers = ()

    def training_step(self, batch, index):
        self.numbers = {*self.numbers, index}
        return super().training_step(batch, index)


class NumberedQuantised(QuantisedTraining, Numbered):
    pass


def test_a_step_is_not_told_how_many_samples_came_before_it(tmp_path):
    module = NumberedQuantised(bound=0.05)
    fit(data(), tmp_path, module=module)
    assert module.numbers == {0}


def test_a_second_fit_reports_itself(tmp_path):
    module = fit(data(), tmp_path / "first", steps=4)
    start = weights_digest(module)
    fit(data(), tmp_path / "second", steps=2, module=module)
    assert module.removal()["initial_weights"] == start
    assert module.removal()["steps"] == 2
    assert module.removal()["samples"] == 24


def test_a_data_module_of_ours_leaves_out_what_was_fitted_on_other_images(tmp_path):
    """The position prior; and serves it again after a run that broke off."""
    source = SyntheticDermoscopy(size=32, train_images=10, val_images=2, test_images=2, batch_size=4, fine_fraction=0.5)
    source.serve("retain")
    assert any((source.dataset("train")[index]["prior"] >= 0).any() for index in range(10))
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            seen.append(bool((batch["prior"] >= 0).any()))
            if trainer.current_epoch == 1:
                raise RuntimeError("out of memory")

    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=2, logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, callbacks=[Watch()],
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit(QuantisedSegmentationModule(num_classes=3), datamodule=source)
    assert len(seen) == 4
    assert not any(seen)
    assert any((source.dataset("train")[index]["prior"] >= 0).any() for index in range(10))


def test_samples_of_any_batch():
    batch = {"x": torch.arange(2), "meta": [{"spacing": torch.tensor([1.0, 2.0])}], "id": ["a", "b"], "scale": 2}
    first, second = samples_of(batch)
    assert first["id"] == ["a"]
    assert second["x"].tolist() == [1]
    assert second["meta"][0]["spacing"].tolist() == [2.0]
    assert first["scale"] == 2
    with pytest.raises(ValueError, match="holds no tensor"):
        next(samples_of(["a"]))


class Leave(pl.Callback):
    """Each rank leaves a digest of its weights and its budgets."""

    def on_train_end(self, trainer, module):
        name = f"{trainer.world_size}-{trainer.global_rank}"
        (Path(trainer.default_root_dir) / name).write_text(weights_digest(module) + str(module.budgets.counts))


def test_two_processes_equal_one_bit_for_bit(tmp_path, as_script):
    as_script(__file__, tmp_path)
    fit(data(far=3.0), tmp_path, Leave())
    assert len({(tmp_path / name).read_text() for name in ("1-0", "2-0", "2-1")}) == 1
    assert "do not divide by 2 processes" in (tmp_path / "refused").read_text()


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    fit(data(far=3.0), out, Leave(), devices=2, strategy="ddp_fork")
    try:
        fit(data(size=23), out, devices=2, strategy="ddp_fork")
    except Exception as error:
        (out / "refused").write_text(str(error))
