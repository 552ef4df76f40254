"""Blockwise noisy fine-tuning: whose turn it is, what stands still, what is refused; two processes as one."""

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
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from erode.callbacks import Blockwise, GradientClipping
from erode.callbacks.blockwise import divided
from erode.certificates import check_certificate, verify
from erode.weights import weights_digest

STEPS, FREE = 3, 4
THREE = ["*.0.*", "*.1.*", "*.2.*"]


class Module(pl.LightningModule):
    def __init__(self, norm=True):
        super().__init__()
        layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)]
        self.network = nn.Sequential(*(layer for layer in layers if norm or not isinstance(layer, nn.BatchNorm1d)))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Watch(pl.Callback):
    """Parameters after each step, kept where no look at attributes finds copies; optionally acts after one."""

    def __init__(self, at=None, act=None):
        seen = []
        self._seen = lambda: seen
        self.at, self.act = at, act

    @property
    def seen(self):
        return self._seen()

    def on_train_start(self, trainer, module):
        self.note(module)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.note(module)
        if self.act is not None and trainer.global_step == self.at:
            self.act(trainer, module)

    def note(self, module):
        self.seen.append({name: p.detach().clone() for name, p in module.named_parameters()})


def fit(folder, *callbacks, module=None, devices=1, steps=3 * STEPS + FREE, **arguments):
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(48, 4), torch.randint(0, 2, (48,)))
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", max_steps=steps,
        logger=False, callbacks=list(callbacks), enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder,
    )  # fmt: skip
    module = module or Module()
    trainer.fit(module, DataLoader(data, batch_size=4), **arguments)
    return module


@pytest.mark.parametrize("blocks", ["layers", ["*.2.*", "*"]])
@pytest.mark.parametrize("weight_decay", [0.0, 1.0])
def test_each_block_moves_in_its_turn_and_no_other(blocks, weight_decay, tmp_path):
    watch = Watch()
    operator = Blockwise(steps=STEPS, blocks=blocks, weight_decay=weight_decay, shrink=False)
    fit(tmp_path, operator, watch)
    turns = [["network.0 network.1", "network.2"], ["network.2", "network.0 network.1"]][blocks != "layers"]
    for step in range(len(turns) * STEPS):
        moved = {
            name.rpartition(".")[0]
            for name, before in watch.seen[step].items()
            if not torch.equal(before, watch.seen[step + 1][name])
        }
        assert moved == set(turns[step // STEPS].split()), step
    assert operator._handed_back
    folder = tmp_path / "unlearned"
    verify(folder / "certificate.json", folder / "weights.safetensors")
    certificate = json.loads((folder / "certificate.json").read_text())
    assert sum(certificate["mechanism"]["sizes"]) == certificate["exposed"]["d"] == 4 * 8 + 8 + 16 + 16 + 2
    record = json.loads((folder / "unlearning.json").read_text())
    assert [{name.rpartition(".")[0] for name in block} for block in record["blocks"]] == [
        set(turn.split()) for turn in turns
    ]
    assert record["reset_buffers"] == ["network.1"]


def test_every_block_starts_within_its_own_radius(tmp_path):
    watch = Watch()
    operator = Blockwise(steps=STEPS, radius=0.01, anchor="zeros")
    fit(tmp_path, watch, operator, module=Module(norm=False))
    for index, layer in enumerate(("network.0", "network.1")):
        start = torch.cat([p.flatten() for name, p in watch.seen[0].items() if name.startswith(layer)])
        assert start.norm().item() == pytest.approx(operator.mechanism.block(index).radius, rel=1e-4)
    assert sum(operator.mechanism.block(i).radius ** 2 for i in (0, 1)) == pytest.approx(0.01**2)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=30),
    st.sampled_from(["retrained", "anchor", "noise"]),
    st.floats(0.0, 1.0),
)
def test_the_noise_is_that_of_gradient_clipping_however_many_blocks(sizes, reference, weight_decay):
    constants = {"radius": 0.3, "learning_rate": 0.1, "weight_decay": weight_decay, "reference": reference}
    whole = GradientClipping(steps=7, **constants).mechanism
    blocks = Blockwise(steps=7, **constants)._mechanism(sizes)
    assert blocks.sigma == pytest.approx(whole.sigma, rel=1e-12)
    assert blocks.mu() == pytest.approx(whole.mu(), rel=1e-9)


def write(trainer, module):
    """Repair between blocks."""
    with torch.no_grad():
        module.network[0].weight.add_(1)


def test_training_a_block_that_has_had_its_turn_is_refused(tmp_path):
    """It would copy blocks without noise into one that gets none any more."""
    with pytest.raises(MisconfigurationException, match="another callback or hook wrote the exposed weights"):
        fit(tmp_path, Blockwise(steps=STEPS), Watch(STEPS, write))
    assert json.loads((tmp_path / "unlearned" / "certificate.json").read_text())["issued"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": ["*.0.*"]}, r"network\.\d\.\w+ is exposed but in no block"),
        ({"blocks": ["*", "*.0.*"]}, "the block .* is empty"),
        ({"steps": 50, "blocks": THREE}, "needs 150 optimiser steps, this run takes 13"),
    ],
)
def test_wrong_blocks_are_refused_before_the_first_step(arguments, message, tmp_path):
    watch = Watch()
    with pytest.raises(MisconfigurationException, match=message):
        fit(tmp_path, Blockwise(**{"steps": STEPS, **arguments}), watch)
    assert watch.seen == []


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"radius": 0.0}, {"epsilon": None}, {"clip_norm": -1.0}])
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        Blockwise(**wrong)


def crash(trainer, module):
    raise RuntimeError("power cut")


@pytest.mark.parametrize("cut", [2, STEPS, STEPS + 1, 3 * STEPS, 3 * STEPS + 1])
def test_a_run_that_was_cut_short_goes_on_with_the_block_it_had_reached(cut, tmp_path):
    every_step = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, Blockwise(steps=STEPS, blocks=THREE), every_step, Watch(cut + 1, crash))
    watch = Watch()
    fit(tmp_path, Blockwise(steps=STEPS, blocks=THREE), watch, ckpt_path=tmp_path / f"step={cut}.ckpt")
    content = json.loads((tmp_path / "unlearned" / "certificate.json").read_text())
    assert check_certificate(content).steps == 3 * STEPS
    if cut == STEPS + 1:
        still = [torch.equal(watch.seen[0][name], watch.seen[1][name]) for name in watch.seen[0]]
        assert still == [True, True, False, False, True, True]


KINDS = [lambda: nn.Linear(2, 2), lambda: nn.Linear(2, 2, bias=False), nn.PReLU, lambda: nn.BatchNorm1d(2)]


@given(st.lists(st.sampled_from(KINDS), min_size=1), st.data())
def test_layers_are_a_partition_of_what_is_exposed(kinds, data):
    """With the kernel a norm or activation follows, whichever parameters are exposed; a shared layer has one turn."""
    network = nn.Sequential(*(kind() for kind in kinds))
    network.append(network[0])
    all_names = [name for name, _ in network.named_parameters()]
    names = [name for name in all_names if data.draw(st.booleans(), label=name)]
    found = divided(network, names, "layers")
    assert [name for block in found for name in block] == names
    for block in found:
        kernels = {name for name in block if name.endswith("weight") and network.get_parameter(name).ndim > 1}
        assert len(kernels) <= 1


class Digests(pl.Callback):
    """Each rank leaves a digest of its weights after every step."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        path = Path(trainer.default_root_dir) / f"{trainer.global_step}-{trainer.global_rank}"
        path.write_text(weights_digest(module.network[0]) + weights_digest(module.network[1]))


def test_two_processes_hold_the_same_weights_bit_for_bit(tmp_path, as_script):
    as_script(__file__, tmp_path)
    for step in range(1, 2 * STEPS + FREE):
        assert (tmp_path / f"{step}-0").read_text() == (tmp_path / f"{step}-1").read_text()
    verify(tmp_path / "unlearned" / "certificate.json", tmp_path / "unlearned" / "weights.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(Path(sys.argv[1]), Blockwise(steps=STEPS), Digests(), module=Module(norm=False), devices=2,
        steps=2 * STEPS + FREE)  # fmt: skip
