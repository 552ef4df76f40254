"""The relearn timer on real runs: it stops where the curve crosses, counts step 0, and all ranks agree."""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from erode.callbacks import RelearnTimer
from erode.metrics import RelearnTime, anamnesis_index


class Pixels(pl.LightningModule):
    """A linear pixel classifier; the validation set is the forget set."""

    def __init__(self, weight=0.0, sync=True):
        super().__init__()
        self.sync = sync
        self.head = nn.Conv2d(1, 1, 1)
        nn.init.constant_(self.head.weight, weight)
        nn.init.zeros_(self.head.bias)

    def loss(self, batch):
        return nn.functional.binary_cross_entropy_with_logits(self.head(batch[0]), batch[1])

    def training_step(self, batch, index):
        return self.loss(batch)

    def validation_step(self, batch, index):
        self.log("forget/loss", self.loss(batch), sync_dist=self.sync)
        self.log("forget/accuracy", ((self.head(batch[0]) > 0) == (batch[1] > 0.5)).float().mean(), sync_dist=self.sync)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def loader():
    image = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(image, (image > 0).float()), 8)


def relearn(folder, timer, weight=0.0, steps=60, ckpt=None, sync=True, **settings):
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        val_check_interval=1,
        callbacks=timer if isinstance(timer, list) else [timer],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"num_sanity_val_steps": -1, "devices": 1, **settings},
    )
    module = Pixels(weight, sync)
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt)
    return trainer, module


def by_hand(weight, threshold):
    """Plain gradient descent: the first step at which the loss is at most the threshold."""
    module, (batch,) = Pixels(weight), loader()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for step in range(100):
        loss = module.loss(batch)
        if loss <= threshold:
            return step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError


def test_it_stops_at_the_step_plain_gradient_descent_needs(tmp_path):
    threshold = 0.3
    fresh, half = RelearnTimer("forget/loss", threshold), RelearnTimer("forget/loss", threshold)
    trainer, module = relearn(tmp_path / "fresh", fresh)
    relearn(tmp_path / "half", half, weight=1.0)
    assert fresh.time == RelearnTime(by_hand(0.0, threshold), True)
    assert half.time == RelearnTime(by_hand(1.0, threshold), True)
    assert trainer.global_step == fresh.time.steps
    assert module.loss(next(iter(loader()))).item() <= threshold
    assert 0 < anamnesis_index(half.time, fresh.time) < 1
    record = json.loads((tmp_path / "fresh" / "relearn.json").read_text())
    assert (record["steps"], record["reached"]) == (fresh.time.steps, True)
    assert [point["step"] for point in record["curve"]] == list(range(fresh.time.steps + 1))


def test_a_model_that_forgot_nothing_needs_no_step(tmp_path):
    timer = RelearnTimer("forget/accuracy", 0.99, mode="max")
    trainer, module = relearn(tmp_path, timer, weight=5.0)
    assert timer.time == RelearnTime(0, True)
    assert trainer.global_step == 0
    assert float(module.head.weight) == 5.0


def test_a_budget_too_small_says_so(tmp_path):
    timer = RelearnTimer("forget/loss", 1e-6)
    relearn(tmp_path, timer, steps=4)
    assert timer.time == RelearnTime(4, False)


def test_without_step_0_it_warns(tmp_path):
    with pytest.warns(UserWarning, match="num_sanity_val_steps=-1"):
        relearn(tmp_path, RelearnTimer("forget/loss", 0.5), num_sanity_val_steps=0)


def test_a_value_that_is_not_logged_is_named_before_training(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"'val/loss'.*forget/accuracy, forget/loss"):
        relearn(tmp_path, RelearnTimer("val/loss", 0.5))


def test_a_resumed_run_goes_on_with_its_curve(tmp_path):
    whole, first, second = (RelearnTimer("forget/loss", 0.3) for _ in range(3))
    relearn(tmp_path / "whole", whole)
    trainer, _ = relearn(tmp_path / "first", first, steps=2)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    relearn(tmp_path / "second", second, ckpt=tmp_path / "cut.ckpt")
    assert second.steps == whole.steps
    assert second.values == pytest.approx(whole.values)


def test_settings_that_mean_nothing_are_refused():
    for arguments in ({"threshold": float("nan")}, {"threshold": 0.1, "mode": "low"}):
        with pytest.raises(ValueError, match="finite threshold"):
            RelearnTimer("loss", **arguments)


def test_ranks_that_logged_different_values_stop_together(tmp_path, as_script):
    """Without sync_dist each rank sees its own half of the forget set; were each to decide, one would wait forever."""
    as_script(__file__, tmp_path)
    records = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert records[0] == records[1]
    assert 0 < records[0]["steps"][-1] < 60


class Report(pl.Callback):
    """Each rank says what its timer holds."""

    def on_fit_end(self, trainer, module):
        timer = next(callback for callback in trainer.callbacks if isinstance(callback, RelearnTimer))
        path = Path(trainer.default_root_dir) / f"rank-{trainer.global_rank}.json"
        path.write_text(json.dumps(timer.state_dict()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    timer = RelearnTimer("forget/loss", 0.3)
    relearn(sys.argv[1], [timer, Report()], sync=False, devices=2, strategy="ddp_fork")
