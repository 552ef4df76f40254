"""A Lightning project that knows nothing of ours but the callbacks: own module, own batch type, own loader."""

import json
from typing import NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from erode.callbacks import FineTune, NegGradSeg, Retrain
from erode.weights import load_weights, weights_digest


class Scan(NamedTuple):
    pixels: torch.Tensor
    outline: torch.Tensor
    box: torch.Tensor


class Scans(Dataset):
    """Bright squares; the box is two pixels wider."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        outline = torch.zeros(16, 16, dtype=torch.uint8)
        row = 3 + index % 6
        outline[row : row + 6, 4:10] = 1
        box = torch.zeros_like(outline)
        box[row - 2 : row + 8, 2:12] = 1
        noise = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(index))
        return Scan(outline[None].float() * 2 + 0.2 * noise, outline, box)


class TheirModule(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, pixels):
        return self.body(pixels)

    def training_step(self, scan, index):
        return nn.functional.cross_entropy(self(scan.pixels), scan.outline.long())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(module, folder, *callbacks, steps=30, **options):
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(Scans(), batch_size=4, shuffle=True))
    return trainer


@pytest.mark.parametrize(
    "operator",
    [
        FineTune(),
        Retrain(),
        NegGradSeg("ascent", image_key=0, fine_key=1, coarse_key=2),
        NegGradSeg(image_key=0, fine_key=1, coarse_key=2),
    ],
    ids=["FineTune", "Retrain", "NegGradSeg-ascent", "NegGradSeg-reweighted"],
)
def test_one_callback_line_is_enough(tmp_path, operator):
    torch.manual_seed(0)
    module = TheirModule()
    trained = weights_digest(module)
    own_step = module.training_step
    fit(module, tmp_path, operator)
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert record["operator"] == type(operator).__name__
    assert record["completed"] is True
    assert record["steps"] == 30
    assert (trained in str(record)) == (operator.card.guarantee == "approximate")  # a hash to test guesses with
    assert record["reset_buffers"] == ["body.1"]
    assert module.training_step == own_step
    released = TheirModule()
    load_weights(released, tmp_path / "unlearned" / "weights.safetensors")
    assert weights_digest(released) == weights_digest(module) == record["released_weights"]


def test_neg_grad_names_what_their_batch_lacks(tmp_path):
    with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match=r"no entry 'image'.*set image_key"):
        fit(TheirModule(), tmp_path, NegGradSeg())
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert record["completed"] is False
    assert "no entry 'image'" in record["why"]
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_neg_grad_restores_healthy_weights_before_collapse(tmp_path):
    """β = 0.02 is nearly pure ascent: without the guard the foreground vanishes, with it the weights survive."""
    torch.manual_seed(0)
    module = TheirModule()
    fit(module, tmp_path / "trained", steps=60)
    keys = {"image_key": 0, "fine_key": 1, "coarse_key": 2}
    guarded, unguarded = TheirModule(), TheirModule()
    for other in (guarded, unguarded):
        other.load_state_dict(module.state_dict())
    options = {"reading": "ascent", "beta": 0.02, "check_every": 1, **keys}
    trainer = fit(guarded, tmp_path / "guarded", NegGradSeg(**options, collapse_ratio=0.3), steps=400)
    fit(unguarded, tmp_path / "unguarded", NegGradSeg(**options, collapse_ratio=0), steps=400)
    scans = torch.utils.data.default_collate([Scans()[i] for i in range(16)])
    foreground = {
        name: (m.eval()(scans.pixels).argmax(1) > 0).sum().item() / scans.outline.sum().item()
        for name, m in (("guarded", guarded), ("unguarded", unguarded))
    }
    assert foreground["unguarded"] < 0.05
    assert foreground["guarded"] > 0.2
    assert trainer.global_step < 400
    record = json.loads((tmp_path / "guarded" / "unlearned" / "unlearning.json").read_text())
    assert record["collapse_guard"]["triggered"] is True
    assert record["collapse_guard"]["healthy_step"] < trainer.global_step
