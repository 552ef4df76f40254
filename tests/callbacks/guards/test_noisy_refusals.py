"""What the noisy phase foretells, and what it refuses before its first step."""

import warnings

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy
from noisy_runs import OPERATORS, STEPS, Module, Watch, fit, network
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from erode.callbacks import GradientClipping, OutputPerturbation
from erode.callbacks.guards.hidden_state import check_known
from erode.callbacks.guards.refusals import check_communication, check_setup
from erode.weights import save_weights


def warnings_of(folder, operator, module=None):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module or Module(), folder, operator)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("operator_class", OPERATORS)
def test_a_start_that_will_not_survive_is_foretold_once(operator_class, tmp_path):
    operator = operator_class(anchor="zeros")
    operator = operator if operator_class is OutputPerturbation else operator_class(anchor="zeros", steps=STEPS)
    module = Module()
    d = sum(parameter.numel() for parameter in module.parameters())
    said = [text for text in warnings_of(tmp_path, operator, module) if "the start" in text]
    signal, noise = operator.mechanism.signal_and_noise(d)
    assert len(said) == 1
    assert said[0].startswith(f"{operator_class.__name__} at epsilon = 1, delta = 1e-07 with {d} exposed parameters")
    assert f"noise {noise:.3g}, ratio {signal / noise:.2g}" in said[0]
    assert "the start will not survive: this is a re-initialisation; retrain exactly on the retain view" in said[0]


def test_what_is_foretold_does_not_depend_on_the_trained_weights(tmp_path):
    said = []
    for run in ("a", "b"):
        torch.manual_seed(len(said))
        said += [text for text in warnings_of(tmp_path / run, OutputPerturbation()) if "the start" in text]
    assert len(said) == 2
    assert said[0] == said[1]


def test_a_start_that_survives_is_no_reason_to_warn(tmp_path):
    operator = OutputPerturbation(epsilon=None, sigma=1e-3, radius=1.0)
    assert not [text for text in warnings_of(tmp_path, operator) if "the start" in text]


@pytest.mark.parametrize(("delta", "warned"), [(1e-3, True), (1e-5, False)])
def test_a_delta_that_is_large_for_the_pixels_of_an_image_is_warned_of_once(delta, warned, tmp_path):
    """64 pixels: δ·|Λ| = 0.064, or 0.00064."""
    said = [text for text in warnings_of(tmp_path, OutputPerturbation(delta=delta)) if "pixels" in text]
    assert len(said) == warned
    if warned:
        assert "delta = 0.001 times 64 pixels per image is 0.064" in said[0]
        assert "choose delta <= 0.0001" in said[0]


# What is refused ------------------------------------------------------------------------------------------------


class Manual(Module):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class WithBuffer(nn.Sequential):
    def __init__(self):
        super().__init__(*network(norm=False))
        self.register_buffer("memory", torch.ones(2))


def frozen():
    module = Module(network(norm=False))
    module.network[0].requires_grad_(False)
    return module


REFUSALS = {
    "manual optimisation": (Manual, [], {}, "optimises manually"),
    "bf16-true": (Module, [], {"precision": "bf16-true"}, "rounds the noise away.*use 32-true"),
    "EMA": (Module, [lambda: EMAWeightAveraging()], {}, "EMAWeightAveraging averages in the original weights"),
    "SWA": (Module, [lambda: StochasticWeightAveraging(0.1)], {}, "StochasticWeightAveraging replaces"),
    "too few steps": (Module, [], {"max_steps": STEPS - 1}, "needs 5 optimiser steps, this run takes 4"),
    "unreset buffer": (lambda: Module(WithBuffer()), [], {}, "cannot re-initialise network.memory.*give anchor=FILE"),
    "frozen and trained": (frozen, [], {}, r"network\.0\.\w+ is neither exposed nor equal to the anchor's"),
    "bf16 weights": (lambda: Module().bfloat16(), [], {}, "stored as torch.bfloat16.*keep weights in float32"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_before_the_first_step(name, tmp_path):
    make, callbacks, settings, message = REFUSALS[name]
    watch = Watch()
    with pytest.raises(MisconfigurationException, match=message):
        fit(make(), tmp_path, GradientClipping(steps=STEPS), watch, *[c() for c in callbacks], **settings)
    assert watch.names == []
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_noise_below_the_rounding_of_the_weights_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="lost in the rounding"):
        fit(Module(), tmp_path, GradientClipping(epsilon=None, sigma=1e-8, steps=STEPS))


def test_a_buffer_equal_to_the_anchors_is_fine_and_another_is_not(tmp_path):
    module = Module(WithBuffer())
    path = save_weights(module, tmp_path / "anchor.safetensors")
    with torch.no_grad():
        next(module.parameters()).add_(1.0)  # what training did
    fit(module, tmp_path / "a", GradientClipping(steps=STEPS, anchor=path))
    module.network.memory.add_(1)
    with pytest.raises(MisconfigurationException, match=r"network\.memory is neither"):
        fit(module, tmp_path / "b", GradientClipping(steps=STEPS, anchor=path))


# What ends too early --------------------------------------------------------------------------------------------


HOOKS = {
    "hook with memory": ({"ddp_comm_hook": powerSGD_hook, "ddp_comm_state": PowerSGDState(None)}, "powerSGD_hook"),
    "state alone": ({"ddp_comm_state": PowerSGDState(None)}, "PowerSGDState"),
    "hook alone": ({"ddp_comm_hook": fp16_compress_hook}, "fp16_compress_hook"),
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_between_the_gradients_of_processes_is_refused(name, tmp_path):
    """Error feedback adds what a hook left out of one gradient to a later one. Asked of a Trainer that does not fit."""
    given, told = HOOKS[name]
    trainer = pl.Trainer(
        strategy=DDPStrategy(**given),
        accelerator="cpu",
        devices=1,
        max_steps=9,
        logger=False,
        default_root_dir=tmp_path,
    )
    for refuses in (
        lambda: check_setup(trainer, Module(), "GradientClipping", STEPS),
        lambda: check_known(trainer, Module(), "Retrain"),
    ):
        with pytest.raises(MisconfigurationException, match=f"{told} stands between .* leave out ddp_comm_hook"):
            refuses()


def test_a_hook_that_was_registered_on_the_wrapped_module_is_refused_too(tmp_path):
    trainer = pl.Trainer(strategy=DDPStrategy(), accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path)
    check_communication(trainer, "Retrain")
    trainer.strategy.model = Module()
    trainer.strategy.model._comm_hooks = [(fp16_compress_hook, None)]  # as DistributedDataParallel notes it
    with pytest.raises(MisconfigurationException, match="fp16_compress_hook stands between"):
        check_communication(trainer, "Retrain")
