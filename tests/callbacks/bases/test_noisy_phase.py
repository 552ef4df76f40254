"""The noisy phase within real fits: exactly the certified steps, nothing half-done, nothing promised in vain."""

import json
import time

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from noisy_runs import OPERATORS, STEPS, Module, Watch, content, fit, network
from torch import nn

from erode.callbacks import GradientClipping, OutputPerturbation
from erode.certificates import VerificationError, check_certificate, verify
from erode.weights import load_weights, save_weights, weights_digest


@pytest.mark.parametrize("operator_class", OPERATORS)
def test_a_fit_is_certified_and_the_rest_is_the_users(operator_class, tmp_path):
    steps = {} if operator_class is OutputPerturbation else {"steps": STEPS}
    operator, watch = operator_class(**steps), Watch()
    module = Module()
    trainer = fit(module, tmp_path, operator, watch)
    noisy = steps.get("steps", 0)
    assert watch.names == ["NoisySGD"] * noisy + ["Adam"] * (9 - noisy)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 9 - noisy
    state = trainer.optimizers[0].state[next(module.parameters())]
    assert state["step"] == 9 - noisy
    folder = tmp_path / "unlearned"
    verify(folder / "certificate.json", folder / "weights.safetensors")
    certificate = content(tmp_path)
    assert certificate["exposed"]["d"] == sum(p.numel() for p in module.parameters())
    record = json.loads((folder / "unlearning.json").read_text())
    assert record["guarantee"] == "certified"


def test_nothing_in_the_folder_tells_the_original_weights(tmp_path):
    """A hash of them beside the released weights would let anyone test a guess of them."""
    module = Module()
    original = weights_digest(module)
    fit(module, tmp_path, GradientClipping(steps=STEPS))
    for path in (tmp_path / "unlearned").iterdir():
        assert original.encode() not in path.read_bytes()


def test_no_gradient_of_the_noisy_phase_is_left_to_the_free_one(tmp_path):
    """It is that of weights without noise, and a module need not zero its gradients."""

    class Accumulates(Module):
        def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
            pass

        def on_train_batch_start(self, batch, index):
            if self.trainer.global_step == STEPS:
                assert all(parameter.grad is None for parameter in self.parameters())

    fit(Accumulates(), tmp_path, GradientClipping(steps=STEPS))
    assert content(tmp_path)["issued"]


def test_a_compiled_network_works(tmp_path):
    fit(Module(torch.compile(network(norm=False), backend="eager")), tmp_path, GradientClipping(steps=STEPS))
    assert check_certificate(content(tmp_path)).steps == STEPS


@pytest.mark.parametrize("settings", [{"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"},
                                      {"gradient_clip_val": 0.1}, {"precision": "64-true"}])  # fmt: skip
def test_common_settings_work(settings, tmp_path):
    fit(Module(network(norm=False)), tmp_path, GradientClipping(steps=STEPS), **settings)
    assert check_certificate(content(tmp_path)).steps == STEPS


def test_learning_rate_monitor_sees_both_phases(tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    fit(Module(), tmp_path, LearningRateMonitor(), GradientClipping(steps=STEPS, folder=tmp_path / "out"),
        logger=logger, log_every_n_steps=1)  # fmt: skip
    header = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert "lr-NoisySGD" in header
    assert "lr-Adam" in header


def test_a_module_that_asks_its_schedule_for_the_learning_rate_gets_that_of_the_noisy_phase(tmp_path):
    rates, operator = [], GradientClipping(steps=STEPS, folder=tmp_path / "out")

    class Asking(Module):
        def training_step(self, batch, index):
            rates.append(self.lr_schedulers().get_last_lr()[0])
            return super().training_step(batch, index)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)]

    fit(Asking(), tmp_path, operator)
    assert rates[:STEPS] == [operator.learning_rate] * STEPS
    assert rates[STEPS] == 0.5


def test_weights_start_in_the_ball_around_the_anchor(tmp_path):
    anchor = Module()
    path = save_weights(anchor, tmp_path / "anchor.safetensors")
    module, start = Module(), []

    class AtStart(pl.Callback):
        def on_train_start(self, trainer, module):
            start.extend(p.detach().clone() for p in module.parameters())

    trained = [p.detach().clone() for p in module.parameters()]
    fit(module, tmp_path, GradientClipping(radius=0.01, anchor=path, steps=STEPS), AtStart())
    flat = [torch.cat([p.detach().flatten() for p in w]) for w in (start, trained, list(anchor.parameters()))]
    moved, wanted = flat[0] - flat[2], flat[1] - flat[2]
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-4)
    assert torch.cosine_similarity(moved, wanted, dim=0).item() == pytest.approx(1.0, abs=1e-4)


def test_shared_parameters_count_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.second = nn.Conv2d(3, 3, 1)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))[:, :2]

    fit(Module(Tied()), tmp_path, GradientClipping(steps=STEPS))
    assert content(tmp_path)["exposed"]["d"] == 9 + 3 + 3


def test_only_a_head_is_exposed_where_the_rest_is_the_anchors(tmp_path):
    module = Module(network(norm=False))
    path = save_weights(module, tmp_path / "anchor.safetensors")
    with torch.no_grad():
        module.network[2].weight.add_(1)  # what training on the forget set did
    operator = GradientClipping(steps=STEPS, anchor=path, exposed=["network.2.*"])
    fit(module, tmp_path, operator, max_steps=STEPS)
    assert content(tmp_path)["exposed"]["d"] == 4 * 2 + 2


# What is said before ---------------------------------------------------------------------------------------------


def crash(trainer, module):
    raise RuntimeError("power cut")


def stop(trainer, module):
    trainer.should_stop = True


def write(trainer, module):
    with torch.no_grad():
        next(module.parameters()).add_(1)


@pytest.mark.parametrize(
    ("act", "error", "why"),
    [
        (crash, RuntimeError, "RuntimeError: power cut"),
        (stop, None, "ended after 3 of 5 certified steps"),
        (write, MisconfigurationException, "another callback or hook wrote the exposed weights"),
    ],
)
def test_no_certificate_and_no_weights_where_the_steps_did_not_all_take_place(act, error, why, tmp_path):
    operator, watch = GradientClipping(steps=STEPS), Watch(3, act)
    if error is None:
        fit(Module(), tmp_path, operator, watch)
    else:
        with pytest.raises(error):
            fit(Module(), tmp_path, operator, watch)
    certificate = content(tmp_path)
    assert certificate["issued"] is False
    assert why in certificate["why_not"]
    assert certificate["claim"] is None
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()
    with pytest.raises(ValueError, match="nothing was certified"):
        verify(tmp_path / "unlearned" / "certificate.json")


def test_what_fails_after_the_release_does_not_take_it_back(tmp_path):
    class Late(pl.Callback):
        def on_fit_end(self, trainer, module):
            crash(trainer, module)

    with pytest.raises(RuntimeError, match="power cut"):
        fit(Module(), tmp_path, GradientClipping(steps=STEPS), Late())
    folder = tmp_path / "unlearned"
    verify(folder / "certificate.json", folder / "weights.safetensors")
    assert json.loads((folder / "unlearning.json").read_text())["completed"] is True


def test_a_known_seed_is_never_certified(tmp_path):
    released = []
    for run in ("a", "b"):
        torch.manual_seed(0)
        module = Module()
        fit(module, tmp_path / run, GradientClipping(steps=STEPS, seed=1))
        released.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
        certificate = content(tmp_path / run)
        assert (certificate["issued"], certificate["reproducible"]) == (False, True)
        record = json.loads((tmp_path / run / "unlearned" / "unlearning.json").read_text())
        assert record["guarantee"] == "approximate"
    assert torch.equal(*released)


def test_without_a_seed_two_runs_differ(tmp_path):
    released = []
    for run in ("a", "b"):
        pl.seed_everything(0, verbose=False)
        module = Module()
        fit(module, tmp_path / run, OutputPerturbation(anchor="zeros"), max_steps=1)
        released.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert not torch.equal(*released)


# Checkpoint and resume ------------------------------------------------------------------------------------------


class SecretWatch(pl.Callback):
    """Collects the secrets that were in use."""

    def __init__(self):
        self.secrets = set()

    def on_train_batch_start(self, trainer, module, batch, index):
        noise = next(c for c in trainer.callbacks if isinstance(c, GradientClipping))._noise
        if noise is not None:
            self.secrets.add(noise._secret)


@pytest.mark.parametrize("cut", [3, STEPS, 7], ids=["noisy phase", "last certified step", "free phase"])
def test_a_run_that_was_cut_short_goes_on(cut, tmp_path):
    every_step = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    watch = SecretWatch()
    torch.manual_seed(0)
    module = Module()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(module, tmp_path, GradientClipping(steps=STEPS), watch, every_step, Watch(cut + 1, crash),
            enable_checkpointing=True)  # fmt: skip
    checkpoint = tmp_path / f"step={cut}.ckpt"
    assert not any(secret in checkpoint.read_bytes() for secret in watch.secrets)
    torch.load(checkpoint, weights_only=True)
    before = set(watch.secrets)
    module = Module()
    seen = Watch()
    trainer = fit(module, tmp_path, GradientClipping(steps=STEPS), watch, seen, ckpt_path=checkpoint)
    noisy = max(0, STEPS - cut)
    assert seen.names == ["NoisySGD"] * noisy + ["Adam"] * (9 - cut - noisy)
    assert len(watch.secrets - before) == (1 if noisy else 0)
    assert trainer.optimizers[0].state[next(module.parameters())]["step"] == 9 - STEPS
    folder = tmp_path / "unlearned"
    verify(folder / "certificate.json", folder / "weights.safetensors")


def test_a_checkpoint_before_the_hand_over_is_handed_over_on_resume(tmp_path):
    """Another callback may save between the last certified step and the moment the user's optimiser is back."""

    def save(trainer, module):
        trainer.save_checkpoint(tmp_path / "between.ckpt")

    fit(Module(), tmp_path / "a", Watch(STEPS, save), GradientClipping(steps=STEPS), enable_checkpointing=True)
    seen = Watch()
    fit(Module(), tmp_path / "b", GradientClipping(steps=STEPS), seen, ckpt_path=tmp_path / "between.ckpt")
    assert seen.names == ["Adam"] * (9 - STEPS)
    assert check_certificate(content(tmp_path / "b")).steps == STEPS


def test_resuming_with_other_settings_is_refused(tmp_path):
    every_step = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Module(), tmp_path, GradientClipping(steps=STEPS), every_step, Watch(3, crash), enable_checkpointing=True)
    with pytest.raises(MisconfigurationException, match="a run with another settings"):
        fit(Module(), tmp_path, GradientClipping(steps=STEPS, radius=1.0), ckpt_path=tmp_path / "step=2.ckpt")


@pytest.mark.parametrize("operator", OPERATORS)
def test_running_statistics_of_the_noisy_phase_are_not_kept(tmp_path, operator):
    """They were computed from weights that had no noise yet: at the hand-over they are those of a new layer."""
    module, seen = Module(network(norm=True)), []

    class See(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if isinstance(trainer.optimizers[0], torch.optim.Adam):
                seen.append({name: buffer.clone() for name, buffer in pl_module.named_buffers()})

    fit(module, tmp_path, operator(anchor="initialisation"), See(), max_steps=60)
    fresh = dict(Module(network(norm=True)).named_buffers())
    assert seen
    assert all(torch.equal(seen[0][name], fresh[name]) for name in fresh)


def test_another_buffer_that_follows_the_weights_is_refused(tmp_path):
    class Average(nn.Module):
        """Remembers what it saw, in a buffer that nobody saves."""

        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()), persistent=False)

        def forward(self, x):
            self.seen += x.detach().mean()
            return x

    module = Module(nn.Sequential(nn.Conv2d(3, 2, 1), Average()))
    with pytest.raises(
        MisconfigurationException, match=r"the buffer network\.1\.seen.* changed in the (noisy phase|run)"
    ):
        fit(module, tmp_path, GradientClipping(radius=0.1, learning_rate=0.01), max_steps=60)
    assert content(tmp_path)["issued"] is False


def test_a_checkpoint_carries_its_own_certificate(tmp_path, capsys):
    """One of the noisy phase says that nothing is certified yet; one of the free phase is verified by itself."""
    checkpoints = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    fit(Module(), tmp_path, GradientClipping(steps=STEPS), checkpoints, enable_checkpointing=True)
    with pytest.raises(VerificationError, match="ended after 3 of 5 certified steps"):
        verify(tmp_path / "step=3.ckpt")
    verify(tmp_path / "step=6.ckpt")
    assert "this speaks of the weights in the checkpoint only" in capsys.readouterr().out
    with pytest.raises(VerificationError, match="these are other weights"):
        verify(tmp_path / "unlearned" / "certificate.json", tmp_path / "step=6.ckpt")


def test_wandb_gets_summary_and_artefact(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(offline=True, save_dir=tmp_path)
    fit(Module(), tmp_path, GradientClipping(steps=STEPS), logger=logger)
    assert logger.experiment.summary["certificate"]["epsilon"] == 1.0
    assert logger.experiment.summary["certificate"]["issued"] is True
    # A folder of its own, where ModelCheckpoint would write, too: runs of one save_dir do not meet.
    verify(tmp_path / logger.name / logger.version / "unlearned" / "certificate.json")
    logger.experiment.finish()
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    patience = time.monotonic() + 60  # W&B's service writes after finish() has returned, if it is busy
    while b"certificate.json" not in log.read_bytes() and time.monotonic() < patience:
        time.sleep(0.2)
    assert b"certificate.json" in log.read_bytes()


@pytest.mark.parametrize("operator_class", OPERATORS)
def test_the_shrink_pulls_towards_the_anchor_and_keeps_the_certificate(operator_class, tmp_path):
    """The same noise twice, once shrunk: at the hand-over the two differ by the published factor and nothing else."""
    torch.manual_seed(0)
    module = Module(network(norm=False), rate=0.0)  # the free phase stands still
    trained = save_weights(module, tmp_path / "trained.safetensors")
    anchor = save_weights(Module(network(norm=False)), tmp_path / "anchor.safetensors")
    steps = {} if operator_class is OutputPerturbation else {"steps": STEPS}
    vectors = {}
    for shrink in (False, True):
        load_weights(module, trained)
        folder = tmp_path / f"shrink-{shrink}"
        operator = operator_class(anchor=anchor, shrink=shrink, seed=3, radius=0.5, folder=folder, **steps)
        fit(module, tmp_path, operator, max_steps=max(1, operator.optimizer_steps))
        vectors[shrink] = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
        record = json.loads((folder / "unlearning.json").read_text())
    load_weights(module, anchor)
    theta_0 = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
    factor = operator.mechanism.shrinkage(len(theta_0))
    assert record["shrinkage"] == factor
    assert 0 < factor < 0.5
    torch.testing.assert_close(vectors[True], theta_0 + factor * (vectors[False] - theta_0))


def test_early_stopping_starts_anew_at_the_hand_over(tmp_path):
    """Else the free phase would end when it does because of a score of weights that had no noise yet."""
    stop = EarlyStopping("loss", patience=100, check_on_train_epoch_end=True)
    seen = []

    class AtHandOver(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            seen.append((trainer.global_step, float(stop.best_score)))

    fit(Module(network(norm=False)), tmp_path, GradientClipping(steps=4), stop, AtHandOver())
    scores = dict(seen)
    assert scores[3] < float("inf")
    assert scores[4] == float("inf")
