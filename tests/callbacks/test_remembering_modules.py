"""Modules that remember weights without noise, or what they made of images, beside certified steps."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from linear_classifier import Items, classifier
from torch.utils.data import DataLoader

from erode.callbacks import Blockwise, GradientClipping, ModelClipping, OutputPerturbation
from erode.certificates import verify
from erode.objectives import GroupDRO, JustTrainTwice

torch.set_num_threads(1)


class Starts(pl.Callback):
    """Notes the weights of every first step of a stage."""

    def __init__(self):
        self.first = {}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.first[trainer.global_step] = module.network[1].weight.detach().clone()


def run(folder, objective, *callbacks, steps=12):
    module = classifier(objective)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, callbacks=list(callbacks), default_root_dir=folder, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, max_steps=steps,
    )  # fmt: skip
    trainer.fit(module, DataLoader(Items(), 4))
    return module


MEMORY = {
    "start": (lambda: JustTrainTwice(first_steps=6, upweight=3.0), "comes back to them .* an objective of one stage"),
    "losses": (lambda: GroupDRO(step_size=0.5), "losses of earlier steps .* that remembers none, as ERM"),
    "both": (lambda: JustTrainTwice(first_steps=6, upweight=3.0, second=GroupDRO()), "comes back to them"),
}


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("operator", [GradientClipping, ModelClipping, Blockwise])
def test_an_operator_that_adds_noise_step_by_step_refuses_them_before_the_first(operator, memory, tmp_path):
    make, why = MEMORY[memory]
    watch = Starts()
    with pytest.raises(MisconfigurationException, match=why):
        run(tmp_path, make(), operator(), watch)
    assert not watch.first
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


@pytest.mark.parametrize("memory", MEMORY)
def test_where_noise_comes_first_what_they_remember_has_it(memory, tmp_path):
    watch = Starts()
    run(tmp_path, MEMORY[memory][0](), OutputPerturbation(), watch)
    out = tmp_path / "unlearned"
    verify(out / "certificate.json", out / "weights.safetensors")
    if memory != "losses":  # the second stage starts from what the noise left
        assert torch.equal(watch.first[6], watch.first[0])


def test_without_a_memory_they_run(tmp_path):
    run(tmp_path, None, GradientClipping())
    assert (tmp_path / "unlearned" / "certificate.json").exists()
