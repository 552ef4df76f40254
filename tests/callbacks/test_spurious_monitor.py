"""The monitor in a stranger's project: its numbers are those of the predictions, and it changes nothing."""

import csv
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from erode.callbacks import GradientClipping, Retrain
from erode.callbacks.spurious_monitor import SpuriousInformationMonitor
from erode.weights import weights_digest


class TheirModule(pl.LightningModule):
    """Batches are tuples (scan, truth, ink); the training loss knows nothing of erode."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(4, 3, 1))

    def forward(self, scan):
        return self.layers(scan)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Keep(pl.Callback):
    """Saves a checkpoint after every step, with the monitor's state in it."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


class Plain(TheirModule):
    """Trains on batches of retained data, as certified operators want them; no layer draws."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Conv2d(1, 3, 3)

    def forward(self, scan):
        return self.layers(nn.functional.pad(scan, (1, 1, 1, 1)))


class Scramble(pl.Callback):
    """Stands for an operator: it changes the weights before the first step."""

    def on_fit_start(self, trainer, module):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.neg_()


@pytest.fixture
def scans():
    generator = torch.Generator().manual_seed(0)
    scan = torch.randn(10, 1, 8, 8, generator=generator)
    truth = torch.randint(3, (10, 8, 8), generator=generator)
    ink = torch.randint(2, (10, 1, 8, 8), generator=generator).to(torch.uint8)
    return TensorDataset(scan, truth, ink)


def fit(tmp_path, module, data, *callbacks, steps=4, **settings):
    settings = {
        "num_sanity_val_steps": -1,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
        **settings,
    }
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, **settings},
    )
    trainer.fit(module, DataLoader(data, 2), DataLoader(data, 4))
    return trainer


def by_hand(module, data):
    """Leakage, gap, Dice and pooled information, pixel by pixel in plain Python."""
    module.eval()
    scan, truth, ink = (torch.stack([item[i] for item in data]) for i in range(3))
    z, y, s = module(scan).argmax(1), truth, ink[:, 0].long()
    hit = z > 0
    leak = hit[(s == 1) & (y == 0)].double().mean().item()
    clean = hit[(s == 0) & (y == 0)].double().mean().item()
    dice = [2 * (a & b).sum().item() / (a.sum() + b.sum()).item() for a, b in zip(hit, y > 0, strict=True)]
    information = 0.0
    for k in (1, 2):
        total = int((z == k).sum())
        terms = 0.0
        for u in (0, 1):
            for v in (0, 1, 2):
                joint = int(((z == k) & (s == u) & (y == v)).sum())
                if joint:
                    rows, columns = int(((z == k) & (s == u)).sum()), int(((z == k) & (y == v)).sum())
                    terms += joint * math.log(joint * total / (rows * columns))
        information = max(information, terms / len(scan))
    return {
        "s_global": information,
        "leakage": leak,
        "gap": leak - clean,
        "dice_lesion": sum(dice) / len(dice),
    }


def table(folder):
    with (folder / "spurious_information.csv").open() as file:
        return list(csv.DictReader(file))


def monitor(**keys):
    return SpuriousInformationMonitor(3, **{"image_key": 0, "fine_key": 1, "artefact_key": 2, **keys})


@pytest.mark.parametrize("operator_first", [True, False])
def test_table_holds_what_the_predictions_say_by_hand(tmp_path, scans, operator_first):
    torch.manual_seed(0)
    module = TheirModule()
    original = by_hand(module, scans)
    module.train()
    callbacks = [Scramble(), monitor()] if operator_first else [monitor(), Scramble()]
    fit(tmp_path, module, scans, *callbacks)
    rows = table(tmp_path)
    assert [(row["weights"], int(row["step"])) for row in rows] == [
        ("original", 0),
        ("current", 0),
        ("current", 2),
        ("current", 4),
    ]
    for row, expected in ((rows[0], original), (rows[-1], by_hand(module, scans))):
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=1e-9)
    assert rows[0]["s_global"] != rows[1]["s_global"]


def test_partial_sanity_check_is_not_measured(tmp_path, scans):
    torch.manual_seed(0)
    module = TheirModule()
    original = by_hand(module, scans)
    module.train()
    fit(tmp_path, module, scans, monitor(), num_sanity_val_steps=1)
    rows = table(tmp_path)
    assert [(row["weights"], int(row["step"])) for row in rows] == [
        ("original", 0),
        ("current", 2),
        ("current", 4),
    ]
    assert float(rows[0]["s_global"]) == pytest.approx(original["s_global"], abs=1e-9)


def test_watching_changes_no_bit(tmp_path, scans):
    digests = []
    for callbacks in ([], [monitor()]):
        torch.manual_seed(0)
        module = TheirModule()
        fit(tmp_path / str(len(callbacks)), module, scans, *callbacks)
        digests.append(weights_digest(module))
    assert digests[0] == digests[1]


def test_logger_gets_the_five_values_together(tmp_path, scans):
    trainer = fit(tmp_path, TheirModule(), scans, monitor(), logger=CSVLogger(tmp_path))
    names = {name for name in trainer.callback_metrics if name.startswith("spurious/")}
    assert names == {f"spurious/{name}" for name in ("s_global", "leakage", "gap", "dice_lesion", "dice_class")}
    last = table(tmp_path / "lightning_logs" / "version_0")[-1]
    for name in names:
        assert float(trainer.callback_metrics[name]) == pytest.approx(float(last[name.removeprefix("spurious/")]))
    assert (tmp_path / "lightning_logs/version_0/spurious_information.png").read_bytes().startswith(b"\x89PNG")


def test_without_artefact_maps_only_dice(tmp_path, scans):
    fit(tmp_path, TheirModule(), scans, monitor(artefact_key=None))
    assert list(table(tmp_path)[0]) == ["step", "seconds", "weights", "dice_lesion", "dice_class"]


def test_copies_do_not_count(tmp_path, scans):
    copied = TensorDataset(*(torch.cat([part, part[:3]]) for part in scans.tensors), torch.arange(13) < 10)
    values = []
    for i, data in enumerate((scans, copied)):
        torch.manual_seed(0)
        fit(tmp_path / str(i), TheirModule(), data, monitor(counted_key=3), steps=0, limit_train_batches=0)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            callbacks=[monitor(counted_key=3)],
        )
        torch.manual_seed(0)
        values.append(trainer.validate(TheirModule(), DataLoader(data, 4), verbose=False)[0])
    assert values[0] == values[1]


def test_missing_entry_is_named_before_training(tmp_path, scans):
    with pytest.raises(MisconfigurationException, match=r"entry 'mask'.*positions 0..2.*fine_key"):
        fit(tmp_path, TheirModule(), scans, monitor(fine_key="mask"))


def test_resumed_run_keeps_its_table(tmp_path, scans):
    torch.manual_seed(0)
    first = fit(tmp_path / "a", TheirModule(), scans, monitor(), steps=2)
    first.save_checkpoint(tmp_path / "cut.ckpt")
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=4,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[monitor()],
        default_root_dir=tmp_path / "b",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(TheirModule(), DataLoader(scans, 2), DataLoader(scans, 4), ckpt_path=tmp_path / "cut.ckpt")
    before, after = table(tmp_path / "a"), table(tmp_path / "b")
    assert after[: len(before)] == before
    assert [row["weights"] for row in after].count("original") == 1


@pytest.mark.parametrize(
    "operator",
    [lambda folder: GradientClipping(steps=2, folder=folder), lambda folder: Retrain(folder=folder)],
    ids=["certified", "exact"],
)
def test_no_checkpoint_beside_a_promise_holds_what_was_measured_before_it(operator, tmp_path, scans):
    torch.manual_seed(0)
    fit(tmp_path, Plain(), scans, monitor(), operator(tmp_path / "u"), Keep(tmp_path))
    rows = table(tmp_path)
    assert [row["weights"] for row in rows].count("original") == 1
    for step in (2, 3, 4):
        content = torch.load(tmp_path / f"{step}.ckpt", weights_only=True)
        kept = next(state for name, state in content["callbacks"].items() if "SpuriousInformationMonitor" in name)
        assert kept == {"rows": [], "measured": True}


def test_a_resumed_run_with_a_promise_goes_on_with_the_table_in_its_folder(tmp_path, scans):
    torch.manual_seed(0)
    fit(tmp_path, Plain(), scans, monitor(), Retrain(folder=tmp_path / "a"), Keep(tmp_path))
    before = table(tmp_path)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=4, val_check_interval=2, check_val_every_n_epoch=None,
        num_sanity_val_steps=0, callbacks=[monitor(), Retrain(folder=tmp_path / "b"), Keep(tmp_path / "b")],
        default_root_dir=tmp_path, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Plain(), DataLoader(scans, 2), DataLoader(scans, 4), ckpt_path=tmp_path / "2.ckpt")
    after = table(tmp_path)
    assert [(row["weights"], row["step"]) for row in after] == [(row["weights"], row["step"]) for row in before]
    assert after[:3] == before[:3]
