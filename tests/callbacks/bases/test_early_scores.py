"""Callbacks that served an earlier fit do not carry its scores into the run that forgets it."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, MetricCollection, SumMetric
from two_loaders import TheirModule, squares, trainer_for

from erode.callbacks import Blockwise, GradientClipping, ModelClipping, OutputPerturbation, Retrain
from erode.weights import weights_digest

torch.set_num_threads(1)


class Scored(TheirModule):
    """Logs a number as its score at the end of each epoch."""

    def __init__(self, score):
        super().__init__(norm=False)
        self.score = score

    def on_train_epoch_end(self):
        self.log("score", float(self.score))


def fit(folder, module, *callbacks, **options):
    pl.seed_everything(1, verbose=False)
    trainer = trainer_for(folder, *callbacks, **{"enable_checkpointing": True, **options})
    trainer.fit(module, DataLoader(squares(8, 1), 4))
    return trainer


@pytest.mark.parametrize("first", [0.0, 100.0])
def test_a_run_is_as_long_whatever_the_original_model_scored(first, tmp_path):
    stopper = EarlyStopping("score", patience=1, check_on_train_epoch_end=True)
    module = Scored(first)
    fit(tmp_path / "original", module, stopper, max_epochs=1)
    module.score = 50.0
    trainer = fit(tmp_path / "unlearning", module, stopper, Retrain(), max_epochs=6)
    assert trainer.current_epoch == 2  # the second epoch is no better than the first


def test_the_best_file_is_one_of_this_run_and_the_earlier_files_stay(tmp_path):
    saver = ModelCheckpoint(tmp_path, "{epoch}-{score:.0f}", monitor="score", save_on_train_epoch_end=True)
    module = Scored(0.0)  # the best there can be
    fit(tmp_path / "original", module, saver, max_epochs=1)
    before = saver.best_model_path
    module.score = 50.0
    fit(tmp_path / "unlearning", module, saver, Retrain(), max_epochs=2)
    assert saver.best_model_path not in ("", before)
    assert torch.load(before, weights_only=False)  # nobody deleted it


@pytest.mark.parametrize("operator", [GradientClipping(steps=3), Blockwise(steps=1)], ids=["clipping", "blockwise"])
def test_no_checkpoint_after_the_hand_over_keeps_a_score_of_the_noisy_phase(operator, tmp_path):
    """The module scores 7 in the noisy phase and 1 after it, and less is worse."""

    class Falling(Scored):
        def on_train_epoch_end(self):
            taken = self.trainer.global_step
            self.log("score", 7.0 if taken < operator.optimizer_steps else 1.0)

    saver = ModelCheckpoint(tmp_path, "best", monitor="score", mode="max", save_last=True, save_on_train_epoch_end=True)
    module = Falling(0.0)
    with pytest.warns(UserWarning, match=r"best\.ckpt is of the noisy phase.*release weights\.safetensors alone"):
        fit(tmp_path / "run", module, saver, operator, max_epochs=4)
    for name in ("best", "last"):
        content = torch.load(tmp_path / f"{name}.ckpt", weights_only=False)
        kept = str({key: value for key, value in content["callbacks"].items() if "ModelCheckpoint" in key})
        assert "7." not in kept, name
    assert weights_digest(module)


class Steps(TheirModule):
    """Its scores are by far the best at the last noisy step; apart from it they fall slowly."""

    def __init__(self, noisy, plateau=None):
        super().__init__(norm=False)
        self.noisy, self.plateau, self.rates = noisy, plateau, []

    def number(self):
        return -1e6 if self.trainer.global_step == self.noisy - 1 else 1000.0 - self.trainer.global_step

    def training_step(self, batch, index):
        self.log("number", self.number(), on_step=True, on_epoch=True)
        return super().training_step(batch, index)

    def validation_step(self, batch, index):
        self.log("val/number", self.number())

    def on_train_batch_start(self, batch, index):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        if self.plateau is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, **self.plateau}}


@pytest.mark.parametrize(
    "plateau", [{"interval": "step", "monitor": "number"}, {"interval": "epoch", "monitor": "number"}]
)
@pytest.mark.parametrize("noisy", [3, 4])  # within the second epoch, and its last step
def test_no_learning_rate_falls_by_what_the_noisy_phase_scored(noisy, plateau, tmp_path):
    module = Steps(noisy, plateau)
    fit(tmp_path, module, ModelClipping(steps=noisy), max_epochs=5)
    assert module.rates[noisy:] == [0.5] * (10 - noisy)


@pytest.mark.parametrize(("noisy", "monitor"), [(3, "number"), (4, "number"), (4, "val/number")])
def test_no_run_ends_by_what_the_noisy_phase_scored(noisy, monitor, tmp_path):
    """Validation comes after the third step, one before the hand-over that ends an epoch."""
    module = Steps(noisy)
    stopper = EarlyStopping(
        monitor, stopping_threshold=0.0, patience=99, check_on_train_epoch_end=True, strict=monitor == "number"
    )
    pl.seed_everything(1, verbose=False)
    trainer = trainer_for(
        tmp_path, stopper, ModelClipping(steps=noisy), max_epochs=5, check_val_every_n_epoch=None, val_check_interval=3
    )
    data = DataLoader(squares(8, 1), 4)
    trainer.fit(module, data, data)
    assert trainer.global_step == 10


def test_a_run_that_ends_at_the_hand_over_saves_what_it_hands_over(tmp_path):
    """Validation scores the weights that hold all noise, so the best file may be of them, and none of before is."""
    module, operator = Steps(4), ModelClipping(steps=4)
    saver = ModelCheckpoint(tmp_path, "{step}", monitor="val/number", save_last=True)
    pl.seed_everything(1, verbose=False)
    trainer = trainer_for(tmp_path / "run", saver, operator, max_epochs=2, enable_checkpointing=True)
    data = DataLoader(squares(8, 1), 4)
    trainer.fit(module, data, data)
    assert trainer.global_step == 4
    for path in (saver.best_model_path, saver.last_model_path):
        assert torch.load(path, weights_only=False)["global_step"] == 4


def test_a_monitor_that_nothing_logs_is_still_an_error(tmp_path):
    stopper = EarlyStopping("nubmer", check_on_train_epoch_end=True)
    with pytest.raises(RuntimeError, match="nubmer"):
        fit(tmp_path, Steps(1), stopper, ModelClipping(steps=1), max_epochs=5)


def test_a_request_to_stop_in_the_noisy_phase_ends_nothing_after_it(tmp_path):
    """The score jumps at the third of five noisy steps and falls from then on, so patience ends in that phase alone."""

    class Jump(Steps):
        def number(self):
            return 2000.0 - self.trainer.global_step if self.trainer.global_step > 2 else 0.0

    stopper = EarlyStopping("val/number", patience=1)
    trainer = trainer_for(
        tmp_path, stopper, ModelClipping(steps=5), max_steps=12, min_steps=7, check_val_every_n_epoch=None,
        val_check_interval=1,
    )  # fmt: skip
    data = DataLoader(squares(8, 1), 4)
    with pytest.warns(UserWarning, match=r"asked in the noisy phase that the run stop.*so the run goes on"):
        trainer.fit(Jump(5), data, data)
    assert (trainer.global_step, stopper.stopped_epoch, stopper.stopping_reason.name) == (12, 0, "NOT_STOPPED")


def test_a_run_whose_time_is_over_ends_after_the_hand_over_all_the_same(tmp_path):
    trainer = trainer_for(tmp_path, Timer({"seconds": 0}), ModelClipping(steps=3), max_steps=12, min_steps=5)
    trainer.fit(Steps(3), DataLoader(squares(8, 1), 4))
    assert trainer.global_step == 5


class Counting(TheirModule):
    """The pattern of torchmetrics: update in the step, compute when the epoch ends."""

    def __init__(self):
        super().__init__(norm=False)
        self.mean = MeanMetric()
        self.both = MetricCollection({"sum": SumMetric(), "total": SumMetric()})  # they share one state
        self.logged = []

    def training_step(self, batch, index):
        taken = float(self.trainer.global_step)
        self.mean.update(taken)
        self.both.update(taken)
        return super().training_step(batch, index)

    def on_train_epoch_end(self):
        self.logged.append([float(value) for value in (self.mean.compute(), *self.both.compute().values())])
        self.mean.reset()
        self.both.reset()


def test_what_metrics_of_the_module_counted_in_the_noisy_phase_is_forgotten(tmp_path):
    """Ten batches an epoch, of which eight are noisy."""
    module = Counting()
    assert not any("mean" in name for name in module.state_dict())
    pl.seed_everything(1, verbose=False)
    trainer_for(tmp_path, ModelClipping(steps=8), max_epochs=2).fit(module, DataLoader(squares(10, 1), 1))
    assert module.logged == [[8.5, 17.0, 17.0], [14.5, 145.0, 145.0]]


@pytest.mark.parametrize("operator", [OutputPerturbation, Retrain])
def test_what_metrics_counted_before_the_run_is_forgotten(operator, tmp_path):
    module = Counting()
    for _ in range(3):
        module.mean.update(1e6)
        module.both.update(1e6)
    trainer_for(tmp_path, operator(), max_epochs=1).fit(module, DataLoader(squares(8, 1), 4))
    assert module.logged == [[0.5, 1.0, 1.0]]
