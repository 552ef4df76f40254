"""CNS in real fits: the step is Newton's, it ends in the ball, it is certified by the diameter, processes agree."""

import itertools
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from erode.callbacks import CNS
from erode.callbacks.bases.retained_loss import RetainedLoss
from erode.callbacks.cns import BATCHES
from erode.certificates import check_certificate, verify
from erode.mechanisms import mechanism
from erode.operator_card import Effort
from erode.weights import save_weights, weights_digest


class Module(pl.LightningModule):
    """Multinomial logistic regression unless another network is given: convex."""

    def __init__(self, network=None):
        super().__init__()
        self.network = network or nn.Linear(4, 3)

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("loss", loss, on_step=True)
        return {"loss": loss}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def dataset(size=64):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(size, 4, generator=generator), torch.randint(0, 3, (size,), generator=generator))


def fit(folder, *callbacks, module=None, devices=1, batch_size=64, steps=2, **arguments):
    torch.manual_seed(0)
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", max_steps=steps,
        logger=False, callbacks=list(callbacks), enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder,
    )  # fmt: skip
    module = module or Module()
    trainer.fit(module, DataLoader(dataset(), batch_size=batch_size), **arguments)
    return module


def vector(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Step(CNS):
    """The weights before the noise and after."""

    def update(self, weights, gradients, anchor):
        self.before = torch.cat([w.detach().flatten() for w in weights]).clone()
        super().update(weights, gradients, anchor)
        self.after = torch.cat([w.detach().flatten() for w in weights]).clone()


def exact_step(start, anchor, ridge):
    """Newton's step on the ridged loss with the exact Hessian."""
    images, labels = dataset().tensors

    def loss(w):
        logits = images @ w[:12].view(3, 4).T + w[12:]
        return nn.functional.cross_entropy(logits, labels) + ridge / 2 * ((w - anchor) ** 2).sum()

    gradient = torch.autograd.functional.jacobian(loss, start)
    return start - torch.linalg.solve(torch.autograd.functional.hessian(loss, start), gradient)


def test_it_is_the_exact_newton_step_of_the_ridged_loss(tmp_path):
    anchor = Module()
    path = save_weights(anchor, tmp_path / "anchor.safetensors")
    torch.manual_seed(3)
    module = Module()
    operator = Step(radius=100.0, ridge=0.1, iterations=200, restarts=1, anchor=path)
    fit(tmp_path, operator, module=module)
    assert torch.allclose(operator.after, exact_step(operator.before, vector(anchor), 0.1), atol=1e-4)
    assert not torch.allclose(operator.after, operator.before, atol=1e-2)


def test_start_and_end_are_in_the_ball_and_the_rest_is_the_users(tmp_path):
    path = save_weights(Module(), tmp_path / "anchor.safetensors")
    operator = Step(radius=0.01, ridge=0.1, anchor=path)
    module = fit(tmp_path, operator, steps=3)
    anchor = torch.cat([t.flatten() for t in operator._theta_0])
    for point in (operator.before, operator.after):
        assert (point - anchor).norm().item() <= 0.01
    assert module.trainer.optimizers[0].state[next(module.parameters())]["step"] == 3
    folder = tmp_path / "unlearned"
    verify(folder / "certificate.json", folder / "weights.safetensors")
    content = json.loads((folder / "certificate.json").read_text())
    assert mechanism(content["mechanism"]).initial_distance() == pytest.approx(0.02)
    assert content["mechanism"]["sensitivity"] == "diameter"
    record = json.loads((folder / "unlearning.json").read_text())
    assert record["certified_by"] == "the diameter of the ball: 0.02"
    assert record["curvature"]["diameter"] == 0.02
    assert record["hessian_vector_products"] > operator.restarts * operator.iterations
    assert record["gradient_evaluations"] > record["steps"] + 2 * record["hessian_vector_products"]


@pytest.mark.parametrize("batch_size", [64, 8])
def test_a_run_takes_as_many_gradients_as_was_said_before(batch_size, tmp_path):
    operator = CNS(ridge=10.0, restarts=2, iterations=5, power_iterations=3)
    fit(tmp_path, operator, batch_size=batch_size)
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    batches = 64 // batch_size
    said = operator.effort(batches).range(batches)
    assert said == (record["gradient_evaluations"] - record["steps"],) * 2
    if batches >= BATCHES:  # where nobody knows how many there are, there are as many as curvature wants
        assert operator.effort(None).range(batches) == said


def test_the_published_run_takes_755_beside_its_300_steps():
    """docs/side_by_side.md: 1,055 in all, 75 batches."""
    assert CNS().effort(75) == Effort(755.0)


def test_a_network_with_batch_norm_and_dropout_in_batches(tmp_path):
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)]
    module = Module(nn.Sequential(*layers))
    module.network(torch.randn(8, 4))  # statistics of the original training

    class AtFirstBatch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, index):
            if trainer.global_step == 0:
                assert pl_module.network[1].running_mean.abs().sum() == 0
                assert pl_module.network[3].training
                assert "log" not in vars(pl_module)

    fit(tmp_path, CNS(ridge=20.0, iterations=10), AtFirstBatch(), module=module, batch_size=16)
    folder = tmp_path / "unlearned"
    verify(folder / "certificate.json", folder / "weights.safetensors")
    record = json.loads((folder / "unlearning.json").read_text())
    curvature = record["curvature"]
    assert curvature["smallest"] <= curvature["largest"]
    if curvature["smallest"] <= 0:
        assert curvature["published_sensitivity"] >= curvature["diameter"]


def test_curvature_is_that_of_the_exact_hessian(tmp_path):
    class Measure(Step):
        def _curvature(self, loss, weights):
            self.measured = super()._curvature(loss, weights)
            self.at = torch.cat([w.detach().flatten() for w in weights]).clone()
            return self.measured

    operator = Measure(radius=100.0, ridge=0.1, power_iterations=200)
    fit(tmp_path, operator)
    images, labels = dataset().tensors
    hessian = torch.autograd.functional.hessian(
        lambda w: nn.functional.cross_entropy(images @ w[:12].view(3, 4).T + w[12:], labels), operator.at
    )
    exact = torch.linalg.eigvalsh(hessian)
    assert operator.measured[1] == pytest.approx(exact[-1].item(), rel=1e-2)
    assert operator.measured[0] == pytest.approx(exact[0].item(), abs=1e-3)


class Valley(Module):
    """Curves down by 2."""

    def training_step(self, batch, index):
        return -sum((p**2).sum() for p in self.parameters())


@pytest.mark.parametrize("options", [{"ridge": 1.0}, {"ridge": 10.0, "scale": 1e-3}], ids=["no minimum", "divergence"])
def test_without_a_step_the_run_goes_on_as_output_perturbation(options, tmp_path):
    """Ending it, or another count of products, would tell without noise how the trained weights curve."""
    fit(tmp_path / "with", CNS(ridge=10.0), module=Valley())
    usual = json.loads((tmp_path / "with" / "unlearned" / "unlearning.json").read_text())
    operator = CNS(**options)
    with pytest.warns(UserWarning, match="curves down by 2") if options["ridge"] < 2 else nullcontext():
        fit(tmp_path, operator, module=Valley())
    assert operator.released
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert record["curvature"]["smallest"] == pytest.approx(-2, abs=1e-3)
    for count in ("hessian_vector_products", "gradient_evaluations"):
        assert record[count] == usual[count]
    assert json.loads((tmp_path / "unlearned" / "certificate.json").read_text())["issued"] is True


def test_batches_that_mark_forget_pixels_are_refused(tmp_path):
    class Roles(Module):
        def training_step(self, batch, index):
            return (self.network(batch["x"]) ** 2).mean()

    items = [{"x": torch.randn(4), "role": torch.ones(2, dtype=torch.uint8) * role} for role in (0, 1)]
    trainer = pl.Trainer(accelerator="cpu", max_steps=1, logger=False, callbacks=[CNS()], default_root_dir=tmp_path,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    with pytest.raises(MisconfigurationException, match="still serves forget atoms"):
        trainer.fit(Roles(), DataLoader(items, batch_size=1))


@pytest.mark.parametrize("kind", ["dict", "list", "combined"])
def test_data_of_another_kind_than_one_loader_are_refused(kind, tmp_path):
    """The loss over all retained data is a mean over the batches of one loader; of several it is not said which."""
    loaders = [DataLoader(dataset(), batch_size=8), DataLoader(dataset(), batch_size=16)]
    data = {
        "dict": dict(zip("ab", loaders, strict=True)), "list": loaders,
        "combined": CombinedLoader(loaders, "sequential"),
    }[kind]  # fmt: skip
    module = Module()
    trainer = pl.Trainer(accelerator="cpu", max_steps=1, logger=False, callbacks=[CNS()], default_root_dir=tmp_path,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    with pytest.raises(MisconfigurationException, match=r"needs one DataLoader .*, got (dict|list): .*a single"):
        trainer.fit(module, data)
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert record["completed"] is False
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


class Endless(IterableDataset):
    def __iter__(self):
        return itertools.cycle(dataset())


def test_data_without_end_are_refused_and_a_limit_is_kept(tmp_path):
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    for folder, limit in (("refused", {}), ("limited", {"limit_train_batches": 4})):
        trainer = pl.Trainer(max_steps=1, callbacks=[CNS()], default_root_dir=tmp_path / folder, **quiet, **limit)
        refused = pytest.raises(MisconfigurationException, match="does not say where they end")
        with nullcontext() if limit else refused:
            trainer.fit(Module(), DataLoader(Endless(), batch_size=8))
    assert not (tmp_path / "refused" / "unlearned" / "weights.safetensors").exists()
    verify(tmp_path / "limited" / "unlearned")


@pytest.mark.parametrize(
    "wrong", [{"ridge": 0.0}, {"scale": 0.0}, {"restarts": 0}, {"iterations": 0}, {"radius": 0.0}, {"epsilon": None}]
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        CNS(**wrong)


def test_requests_in_sequence_are_each_noised_and_certified(tmp_path):
    """The second run starts at what the first released, with noise of its own."""
    module, steps = Module(), []
    for request in ("first", "second"):
        operator = Step(radius=0.05, anchor="zeros")
        fit(tmp_path / request, operator, module=module, steps=1)
        folder = tmp_path / request / "unlearned"
        verify(folder / "certificate.json", folder / "weights.safetensors")
        steps.append(operator)
    records = [json.loads((tmp_path / r / "unlearned" / "unlearning.json").read_text()) for r in ("first", "second")]
    assert records[0]["released_weights"] != records[1]["released_weights"]
    assert all(operator.after.norm() <= 0.05 for operator in steps)


def test_a_run_that_was_cut_short_goes_on_without_a_second_step(tmp_path):
    class Cut(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if trainer.global_step == 3:
                raise RuntimeError("power cut")

    kept = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path, Step(), kept, Cut(), steps=5, batch_size=8)
    operator = Step()
    fit(tmp_path, operator, steps=5, batch_size=8, ckpt_path=tmp_path / "step=2.ckpt")
    assert not hasattr(operator, "after")
    assert check_certificate(json.loads((tmp_path / "unlearned" / "certificate.json").read_text())).steps == 1


class Leave(Step):
    """Each rank leaves where the step ended, and a digest of its released weights."""

    def on_train_end(self, trainer, module):
        super().on_train_end(trainer, module)
        name = f"{trainer.world_size}-{trainer.global_rank}"
        torch.save({"after": self.after, "digest": weights_digest(module)}, Path(trainer.default_root_dir) / name)


def test_two_processes_take_the_step_of_one(tmp_path, as_script):
    as_script(__file__, tmp_path)
    first, second = (torch.load(tmp_path / f"2-{rank}") for rank in (0, 1))
    assert first["digest"] == second["digest"]
    assert torch.equal(first["after"], second["after"])
    fit(tmp_path / "one", operator := Leave(**SETTINGS), steps=1)
    assert torch.allclose(operator.after, first["after"], atol=1e-5)
    assert (operator.after - operator.before).norm() > 0.1


SETTINGS = {"radius": 50.0, "ridge": 0.1, "iterations": 60, "anchor": "zeros", "seed": 0}


def test_products_are_counted_and_batches_come_round(tmp_path):
    class Count(CNS):
        def direction(self, loss, weights):
            assert isinstance(loss, RetainedLoss)
            products = loss.products()
            ones = torch.ones(15)
            images = [next(products)(ones) for _ in range(5)]
            assert torch.equal(images[0], images[4])
            assert not torch.equal(images[0], images[1])
            assert loss.products_taken == 5
            return super().direction(loss, weights)

    fit(tmp_path, Count(iterations=3), batch_size=16)


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(Path(sys.argv[1]), Leave(**SETTINGS), devices=2, batch_size=32, steps=1)
