"""SCRUB: its terms by hand, the order of its phases, what the teacher costs, and what is refused."""

import json
import weakref

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from scipy.special import log_softmax
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, default_collate
from two_loaders import BY_EPOCH, KEYS, TheirModule, coarse_trained, copy_of, pair, squares, trainer_for

from erode.callbacks import Scrub
from erode.callbacks.bases.teacher import Teacher
from erode.callbacks.batches.atom_batches import BatchKeys
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.masks import DiskDilation
from erode.weights import load_weights, weights_digest

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("original"))
        return coarse_trained()


class Watch(pl.Callback):
    """Losses and digests of every step."""

    def __init__(self):
        self.losses, self.digests = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.losses.append(outputs["loss"].item())
        self.digests.append(weights_digest(module))


def by_hand(student, teacher, temperature):
    """T² · Σ p ln(p/q) of every pixel, in NumPy and double precision."""
    log_p = log_softmax(teacher.detach().double().numpy() / temperature, axis=1)
    log_q = log_softmax(student.detach().double().numpy() / temperature, axis=1)
    return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(1)


def rounded(module):
    """The model with weights and running statistics of eight bits."""
    copy = copy_of(module)
    copy.load_state_dict(
        {k: v.bfloat16().to(v.dtype) if v.is_floating_point() else v for k, v in copy.state_dict().items()}
    )
    return copy.eval()


def test_losses_of_both_phases_are_what_the_paper_says(original, tmp_path):
    """Every loss of a run of single-batch phases, from its weights, by hand: T = 2, α = 0.3, γ = 0.7."""
    loaders = pair(squares(4, 1), squares(4, 2))
    retain, forget = next(iter(loaders["retain"])), next(iter(loaders["forget"]))
    teacher, states = rounded(original), []

    class Keep(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            states.append({name: value.clone() for name, value in module.state_dict().items()})

    watch, module = Watch(), copy_of(original)
    operator = Scrub(alpha=0.3, gamma=0.7, temperature=2, msteps=2, **BY_EPOCH)
    trainer_for(tmp_path, operator, Keep(), watch, max_epochs=5).fit(module, loaders)
    assert len(watch.losses) == 5
    for epoch, state in enumerate(states):
        student = TheirModule().train()
        student.load_state_dict(state)
        if epoch in (1, 3):
            image, _, coarse = forget
            expected = -by_hand(student(image), teacher(image), 2)[coarse.numpy() > 0].mean()
        else:
            image, fine, coarse = retain
            logits = student(image)
            near = by_hand(logits, teacher(image), 2)[(fine == coarse).numpy()].mean()
            expected = 0.3 * near + 0.7 * nn.functional.cross_entropy(logits, fine).item()
        assert watch.losses[epoch] == pytest.approx(expected, rel=2e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("lengths", "pushing", "phases"),
    [((None, None), {3, 4, 5, 9, 10, 11}, 6), ((1, 3), {3, 7}, 8), ((2, 1), {1, 2, 4, 5}, 16)],
    ids=["epochs", "short and long", "long and short"],
)
def test_phases_alternate_and_then_only_repair(original, tmp_path, lengths, pushing, phases):
    """A max-phase has a loss below zero, a min-phase one above."""
    watch = Watch()
    operator = Scrub(msteps=2, max_phase=lengths[0], min_phase=lengths[1], **KEYS)
    trainer_for(tmp_path, operator, watch, max_epochs=6).fit(copy_of(original), pair())  # three batches an epoch
    assert {step for step, loss in enumerate(watch.losses) if loss < 0} == pushing
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert (record["guarantee"], record["phases"], record["max_phases"]) == ("approximate", phases, 2)
    assert record["gradient_evaluations"] == 24


def test_forget_atoms_lose_their_label_and_retained_ones_keep_theirs(original, tmp_path):
    module = copy_of(original, norm=True)
    trainer_for(tmp_path, Scrub(msteps=2, **BY_EPOCH), max_epochs=16).fit(module, pair())
    image, fine, coarse = squares(12, 2).tensors
    ring = (coarse == 1) & (fine == 0)

    def share(model):
        return (model.eval()(image).argmax(1) == 1)[ring].float().mean().item()

    assert share(module) < share(original) - 0.3
    retained, labels, _ = squares(8, 1).tensors
    assert (module(retained).argmax(1) == labels).float().mean() > 0.9


class WithAdam(TheirModule):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def test_max_phases_leave_no_trace_in_what_adam_remembers(original, tmp_path):
    """Its own count of steps tells: a phase counts on, and the min-phases count on as if it had not been."""
    inside, between = [], []

    class Count(pl.Callback):
        def steps(self, trainer):
            return [int(state["step"]) for state in trainer.optimizers[0].state.values()][:1]

        def on_before_zero_grad(self, trainer, module, optimizer):  # after a step, before the batch ends
            inside.append(self.steps(trainer))

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            between.append(self.steps(trainer))

    module = WithAdam()
    module.load_state_dict(original.state_dict())
    operator = Scrub(msteps=2, max_phase=2, min_phase=3, **KEYS)
    trainer_for(tmp_path, operator, Count(), max_epochs=4).fit(module, pair())  # three batches an epoch
    # Within a batch, what is seen is the state before its step.
    assert inside == [[], [1], [2], [3], [4], [3], [4], [5], [6], [7], [6], [7]]
    assert between == [[1], [2], [3], [3], [3], [4], [5], [6], [6], [6], [7], [8]]


@pytest.mark.parametrize("module", [TheirModule, WithAdam])
def test_a_run_cut_short_in_the_middle_goes_on_as_if_it_was_not(original, tmp_path, module):
    """The checkpoint lies in the second max-phase, whose teacher is no longer what the module holds."""
    whole, rest = Watch(), Watch()
    options = {"msteps": 2, "alpha": 0.9, **KEYS, "max_phase": 4, "min_phase": 1}  # steps 6 to 9, of epochs of three

    def start():
        begun = module()
        begun.load_state_dict(original.state_dict())
        return begun

    trainer_for(tmp_path / "whole", Scrub(**options), whole, max_epochs=6).fit(start(), pair())
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    cut = trainer_for(tmp_path / "cut", Scrub(**options), keep, max_epochs=6, enable_checkpointing=True)
    cut.fit(start(), pair())
    trainer_for(tmp_path / "rest", Scrub(**options), rest, max_epochs=6).fit(
        module(seed=5), pair(), ckpt_path=tmp_path / "epoch=2.ckpt", weights_only=True
    )
    assert len(rest.losses) == 9
    # Running averages of the first batch after a resume start anew, and only they do; no training loss sees them.
    np.testing.assert_array_equal(rest.losses, whole.losses[-9:])


def test_forget_images_leave_no_trace_in_running_statistics(original, tmp_path):
    """The statistics of the release are those of retained batches, also where the forget images are far off."""
    far = squares(8, 3)
    far.tensors = (far.tensors[0] + 100, *far.tensors[1:])
    module = copy_of(original)
    trainer_for(tmp_path, Scrub(msteps=1, **BY_EPOCH), max_epochs=3).fit(module, pair(forget=far))
    assert module.body[1].running_mean.abs().max() < 10
    assert module.body[1].track_running_stats


# The teacher -----------------------------------------------------------------------------------------------------


class Widened(TorchDispatchMode):
    """Counts the bytes of casts from bfloat16 that are alive at once."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.bfloat16:
            size = result.untyped_storage().nbytes()
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(result.untyped_storage(), self._gone, size)
        return result

    def _gone(self, size):
        self.alive -= size


def test_the_teacher_costs_half_the_memory_of_the_weights_and_a_layer():
    module = SegmentationModule(num_classes=3)
    floats = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    teacher = Teacher(module)
    assert teacher.nbytes == sum(t.nbytes for t in floats) // 2
    largest = max(t.nbytes for t in floats)
    with Widened() as counted:
        teacher.logits(module, torch.randn(1, 3, 32, 32))
    assert 0 < counted.peak <= largest + 4096  # the weight of one layer, and its bias
    assert counted.peak < sum(t.nbytes for t in floats) / 2


@pytest.mark.parametrize("training", [True, False])
def test_the_teacher_says_what_the_original_model_said(original, training):
    module = copy_of(original).train(training)
    teacher, image = Teacher(module), squares(4, 7).tensors[0]
    expected = rounded(original)(image)
    for parameter in module.parameters():
        parameter.data.fill_(0.1)
    said = teacher.logits(module, image)
    torch.testing.assert_close(said, expected)
    assert not said.requires_grad
    assert (said - original.eval()(image)).abs().max() < 0.1
    assert module.training is training
    assert module.body[1].training is training


def test_attention_that_reads_weights_of_a_layer_it_does_not_call_can_teach():
    class Attention(TheirModule):
        def __init__(self):
            super().__init__()
            self.heads = nn.MultiheadAttention(6, 2, batch_first=True)
            self.out = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 2, 1))

        def forward(self, image):
            features = self.body[:-1](image)
            rows = features.flatten(2).transpose(1, 2)
            return self.out((rows + self.heads(rows, rows, rows)[0]).transpose(1, 2).reshape(features.shape))

    module = Attention()
    image = squares(2, 0).tensors[0]
    torch.testing.assert_close(Teacher(module).logits(module, image), module.eval()(image), atol=0.05, rtol=0.05)


# Our own data, and what is refused -------------------------------------------------------------------------------


def ours(**options):
    return SyntheticDermoscopy(
        size=32, train_images=20, val_images=4, test_images=4, batch_size=4, fine_fraction=0.4,
        coarsening=DiskDilation(4), **options,
    )  # fmt: skip


@pytest.mark.parametrize("only_fine", [True, False])
def test_our_data_are_served_side_by_side_for_the_run(tmp_path, only_fine):
    data, seen = ours(), []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            seen.append(batch)

    module = SegmentationModule(num_classes=3)
    trainer_for(
        tmp_path,
        Scrub(msteps=1, max_phase=4, min_phase=3, only_fine=only_fine),
        Look(),
        max_epochs=2,
        limit_val_batches=0,
    ).fit(module, datamodule=data)
    assert {name for batch in seen for name in batch["forget"]["id"]} == {case.id for case in data.part("train")}
    retained = {name for batch in seen for name in batch["retain"]["id"]}
    assert (retained <= set(data.split.fine)) is only_fine
    assert all((batch["forget"]["role"] == 1).any() for batch in seen)
    assert not any((batch["retain"]["role"] == 1).any() for batch in seen)
    assert isinstance(data.train_dataloader(), DataLoader)  # as before the run
    released = SegmentationModule(num_classes=3)
    load_weights(released, tmp_path / "unlearned" / "weights.safetensors")
    assert weights_digest(released) == weights_digest(module)


def test_copies_that_pad_a_batch_are_not_pushed_away_twice():
    """The index -1 - i is a copy of item i, as a distributed sampler serves it."""
    data = ours()
    data.setup("fit")
    data.serve("fine_subset", forget=True)
    dataset = data.train_dataloader()["forget"].dataset
    batch = default_collate([dataset[0], dataset[1], dataset[-1]])
    where = BatchKeys("image", "mask", "coarse", "role").forgotten(batch).where
    assert where[:2].flatten(1).any(1).all()
    assert not where[2].any()


@pytest.mark.parametrize(
    ("loaders", "message"),
    [
        (DataLoader(squares(4, 0), 2), r"needs batches \{'retain': ..., 'forget': ...\}, the loader serves a list"),
        ({"retain": DataLoader(squares(4, 0), 2)}, r"serves a dict with \['retain'\].*give fit \{'retain': loader"),
        (
            pl.utilities.CombinedLoader(pair(), "max_size"),
            r"one of the two loaders ended before the other.*mode='max_size_cycle'",
        ),
    ],
    ids=["one loader", "one entry", "uneven"],
)
def test_loaders_that_are_no_pair_are_refused(loaders, message, tmp_path):
    with pytest.raises(MisconfigurationException, match=message):
        trainer_for(tmp_path, Scrub(msteps=1, **BY_EPOCH), max_epochs=4).fit(TheirModule(), loaders)


def test_forget_atoms_among_the_retained_ones_are_refused(tmp_path):
    data = ours()
    data.setup("fit")
    coarse = data.dataset("train")  # under the coarse view
    loaders = {"retain": DataLoader(coarse, 4), "forget": DataLoader(coarse, 4)}
    with pytest.raises(MisconfigurationException, match="still serves forget atoms to Scrub"):
        trainer_for(tmp_path, Scrub(msteps=1), max_epochs=6).fit(SegmentationModule(num_classes=3), loaders)


@pytest.mark.parametrize("options", [{"max_epochs": 2}, {"max_epochs": 4}, {"max_steps": 5, "max_epochs": -1}])
def test_a_run_that_would_end_in_a_max_phase_is_refused_before_it_starts(options, tmp_path):
    module = TheirModule()
    before = weights_digest(module)
    with pytest.raises(MisconfigurationException, match=r"would end in a max-phase of Scrub.*choose shorter"):
        trainer_for(tmp_path, Scrub(**BY_EPOCH), **options).fit(module, pair())
    assert weights_digest(module) == before


@pytest.mark.parametrize(("phases", "steps"), [(BY_EPOCH, 3), (KEYS, 20)], ids=["epochs", "steps"])
def test_a_run_that_would_push_nothing_away_is_refused_unless_asked_for(phases, steps, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"before the first max-phase of Scrub.*or say msteps=0"):
        trainer_for(tmp_path, Scrub(**phases), max_steps=steps).fit(TheirModule(), pair())
    trainer_for(tmp_path, Scrub(msteps=0, **phases), max_steps=steps).fit(TheirModule(), pair())
    assert json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())["max_phases"] == 0


def test_a_run_stopped_in_a_max_phase_releases_nothing(tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            trainer.should_stop = trainer.current_epoch == 1

    trainer_for(tmp_path, Scrub(**BY_EPOCH), Stop(), max_epochs=8, min_steps=None).fit(TheirModule(), pair())
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert record["completed"] is False
    assert "stopped in max-phase 1" in record["why"]
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1}, "alpha and gamma must not be negative, nor both 0; got -1 and 1.0"),
        ({"alpha": 0, "gamma": 0}, "nor both 0"),
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"msteps": -1}, "msteps counts max-phases, got -1"),
        ({"max_phase": 0}, "at least 1 step, or both None = an epoch; got 0 and 20"),
        ({"min_phase": None}, "both None = an epoch; got 1 and None"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scrub(**arguments)


def test_a_scripted_layer_cannot_teach(tmp_path):
    module = TheirModule(norm=False)
    module.body = torch.jit.script(module.body)
    with pytest.raises(MisconfigurationException, match=r"body is TorchScript.*cannot teach Scrub"):
        trainer_for(tmp_path, Scrub(**KEYS), max_steps=30).fit(module, pair())
