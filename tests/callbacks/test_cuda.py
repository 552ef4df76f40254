"""What only a CUDA device can show: noise drawn there, steps that nobody waits for, mixed precision, compilation."""

import functools

import lightning.pytorch as pl
import noisy_runs
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import OPERATORS, STEPS, Module, network
from scipy import stats
from torch import nn

from erode.batch import Role
from erode.callbacks import FineTune, GradientClipping, ModelClipping, OutputPerturbation
from erode.callbacks.noise.keyed_noise import KeyedNoise
from erode.callbacks.noise.noisy_sgd import NoisySGD
from erode.certificates import verify

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

fit = functools.partial(noisy_runs.fit, accelerator="gpu")


def held(folder):
    """The certificate, with the weights that were released."""
    verify(folder / "unlearned" / "certificate.json", folder / "unlearned" / "weights.safetensors")


def made(operator_class, **settings):
    return operator_class(**settings, **({} if operator_class is OutputPerturbation else {"steps": STEPS}))


def stepping(operator_class, shapes, alike=True):
    """An optimiser with gradients for its first step."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator).cuda()) for shape in shapes]
    settings = {"weight_decay": 0.5} if operator_class is GradientClipping else {}
    operator, noise, taken = made(operator_class, **settings), KeyedNoise(b"a"), []
    optimizer = NoisySGD(
        parameters, [torch.zeros_like(p) for p in parameters], operator.update,
        lambda weights: noise.keyed(weights, len(taken), 0.1), lambda: taken.append(None), alike=alike,
    )  # fmt: skip
    new_gradients(parameters, 0)
    return optimizer, parameters


def new_gradients(parameters, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).cuda()


def test_noise_is_standard_gaussian_with_a_tail():
    drawn = KeyedNoise(b"a").draw([torch.empty(3_000_000, dtype=torch.float64, device="cuda")], 0)[0].cpu()
    assert stats.kstest(drawn[:500_000].numpy(), "norm").pvalue > 1e-3
    z = [drawn.mean(), (drawn**2 - 1).mean() / 2**0.5, (drawn**4 - 3).mean() / 96**0.5]
    assert max(abs(float(value)) for value in z) * len(drawn) ** 0.5 < 4
    # Single precision of a device ends at 6.66 σ or before, double precision goes on.
    noise, like, beyond = KeyedNoise(b"tail"), [torch.empty(2**26, dtype=torch.float64, device="cuda")], 0
    for step in range(16):
        beyond += int((noise.draw(like, step)[0].abs() > 5.8).sum())
    assert stats.poisson.cdf(beyond, 2**30 * 2 * stats.norm.sf(5.8)) > 1e-4
    assert stats.poisson.sf(beyond - 1, 2**30 * 2 * stats.norm.sf(5.8)) > 1e-4


def test_noise_is_a_function_of_secret_step_and_place():
    like = [torch.zeros(700_000, device="cuda"), torch.zeros(3, 5, device="cuda")]
    first, again = KeyedNoise(b"a").draw(like, 0), KeyedNoise(b"a").draw(like, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    others = [KeyedNoise(b"b").draw(like, 0)[0], KeyedNoise(b"a").draw(like, 1)[0], first[0].roll(2**19)]
    for other in others:
        assert abs(torch.corrcoef(torch.stack([first[0], other]))[0, 1]) < 5 / 700_000**0.5


@pytest.mark.parametrize("alike", [False, True], ids=["launched", "replayed"])
@pytest.mark.parametrize("operator_class", [GradientClipping, ModelClipping])
def test_a_step_keeps_the_host_waiting_for_nothing(operator_class, alike):
    optimizer, parameters = stepping(operator_class, [(200, 3000), (7,)], alike)
    for step in range(4):
        new_gradients(parameters, step)
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("shapes", [[(200, 3000), (7,)], [(1500, 1000), (900, 1000), (8,), (2100, 1000)]])
@pytest.mark.parametrize("operator_class", [GradientClipping, ModelClipping])
def test_replays_do_what_launches_do_with_noise_of_their_own(operator_class, shapes):
    """To the last bit, over many steps, also where memory lies elsewhere at some of them."""
    ends, steps, crowd = {}, 12, []
    for alike in (False, True):
        optimizer, parameters = stepping(operator_class, shapes, alike)
        for step in range(steps):
            new_gradients(parameters, step)
            if step % 4 == 3:  # takes the places that were lent
                crowd = [torch.full((2**22,), torch.nan, device="cuda") for _ in range(9)]
            optimizer.step()
            crowd.clear()
        optimizer.settle()
        ends[alike] = [parameter.detach().clone() for parameter in parameters]
    assert all(torch.equal(a, b) for a, b in zip(ends[False], ends[True], strict=True))
    assert optimizer._replays.replayed >= steps // 2


class Replayed(pl.Callback):
    """Counts the steps that were replayed."""

    count = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        replays = getattr(trainer.optimizers[0], "_replays", None)
        self.count = self.count if replays is None else replays.replayed


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_most_steps_of_a_fit_are_replayed(precision, tmp_path):
    counted = Replayed()
    operator = GradientClipping(epsilon=None, sigma=1e-5, steps=30)
    large = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 600, 3), nn.Conv2d(600, 2, 3, padding=2)
    )
    fit(Module(large), tmp_path, operator, counted, precision=precision, max_steps=32)
    held(tmp_path)
    assert counted.count >= 25


def test_draws_on_other_work_leave_a_recording_as_it_is():
    """What else draws on the device, as dropout does, has generators of its own."""
    first, second = (stepping(GradientClipping, [(200, 3000)]) for _ in range(2))
    torch.cuda.manual_seed(3)
    undisturbed = torch.rand(4, device="cuda")
    torch.cuda.manual_seed(3)
    for step in range(6):
        new_gradients(first[1], step)
        new_gradients(second[1], step)
        first[0].step()
        second[0].step()
    assert torch.equal(torch.rand(4, device="cuda"), undisturbed)
    assert torch.equal(first[1][0], second[1][0])


@pytest.mark.parametrize("operator_class", [GradientClipping, ModelClipping])
def test_a_step_is_that_of_the_cpu(operator_class):
    """Clip, decay and projection agree with double precision; the noise aside, which is another stream."""
    generator = torch.Generator().manual_seed(3)
    start, gradient, anchor = (
        [torch.randn(40, 50, generator=generator), torch.randn(9, generator=generator)] for _ in range(3)
    )
    operator = made(operator_class, **({"weight_decay": 0.5} if operator_class is GradientClipping else {}))

    def after(device, dtype):
        weights, gradients, anchors = ([t.to(device, dtype, copy=True) for t in v] for v in (start, gradient, anchor))
        operator.update(weights, gradients, anchors)
        return torch.cat([w.flatten().cpu().double() for w in weights])

    assert torch.allclose(after("cuda", torch.float32), after("cpu", torch.float64), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("operator_class", OPERATORS)
def test_a_fit_is_certified(operator_class, precision, compiled, tmp_path):
    plain = network(norm=False)
    module = Module(torch.compile(plain) if compiled else plain)
    trainer = fit(module, tmp_path, made(operator_class), precision=precision)
    held(tmp_path)
    assert type(trainer.optimizers[0]).__name__ == "Adam"


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true"])
def test_precisions_that_cannot_be_certified_are_refused(precision, tmp_path):
    with pytest.raises(MisconfigurationException, match=precision):
        fit(Module(), tmp_path, made(GradientClipping), precision=precision)


class Cut(pl.Callback):
    """Saves after two steps and breaks off."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("power cut")


def test_a_run_that_was_cut_short_goes_on(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Module(), tmp_path / "first", made(GradientClipping), Cut(tmp_path / "cut.ckpt"), enable_checkpointing=True)
    fit(Module(), tmp_path / "second", made(GradientClipping), ckpt_path=tmp_path / "cut.ckpt")
    held(tmp_path / "second")


def test_a_gradient_that_is_not_finite_is_refused_before_anything_leaves():
    parameter = nn.Parameter(torch.randn(3, device="cuda"))
    operator, noise = made(GradientClipping), KeyedNoise(b"a")
    optimizer = NoisySGD([parameter], [], operator.update, lambda weights: noise.keyed(weights, 0, 1.0))
    parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step()
    with pytest.raises(FloatingPointError, match="not finite"):
        optimizer.state_dict()
    with pytest.raises(FloatingPointError, match="not finite"):
        optimizer.settle()


class Forgetful(pl.Callback):
    """Marks atoms as forgotten from the third batch on, where they are already on the device."""

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == 2:
            batch["role"] = torch.full_like(batch["mask"], Role.FORGET)


@pytest.mark.parametrize("steps", [3, 9])
def test_forget_atoms_are_refused_before_anything_leaves(steps, tmp_path):
    operator = FineTune()
    with pytest.raises(MisconfigurationException, match="still serves forget atoms"):
        fit(Module(), tmp_path, Forgetful(), operator, max_steps=steps)
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


@pytest.mark.parametrize("operator_class", [GradientClipping, ModelClipping])
def test_a_step_takes_at_most_one_copy_of_the_parameters(operator_class):
    """Beside weights, gradients and anchor; and recordings keep next to nothing."""
    optimizer, parameters = stepping(operator_class, [(2_000_000,)] * 4)
    optimizer.step()
    copy, reserved = 4 * 4 * 2_000_000, torch.cuda.memory_reserved()
    for step in range(4):
        new_gradients(parameters, step)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        optimizer.step()
        assert torch.cuda.max_memory_allocated() - before < copy + 2**20
        assert torch.cuda.memory_allocated() - before < 2**20 - copy  # gradients are let go
    assert optimizer._replays.replayed >= 3
    assert torch.cuda.memory_reserved() - reserved <= 4 * 2**20 + copy
