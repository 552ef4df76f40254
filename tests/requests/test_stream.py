"""Fifty requests: after each, what was released never saw a forgotten atom, or the composed μ is right."""

import json
import math
from itertools import pairwise

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from stream_runs import IMAGES, Module, certified, fit, items, trained
from torch import nn
from torch.utils.data import DataLoader

from erode.accounting import gdp_delta, gdp_epsilon
from erode.callbacks import ExposureLedger, GradientClipping, OutputPerturbation, Rewind
from erode.certificates import VerificationError
from erode.masks import ForgetSplit
from erode.requests import Exposure, ForgetRequest, Ledger, Level, RequestStream, read_ledger, restore_to
from erode.weights import load_weights, save_weights, weights_digest

REQUESTS = 50


def by_hand(poisoned, steps):
    """The weights after some steps over images of which the forgotten ones were exchanged: no Lightning, no ledger."""
    torch.manual_seed(0)
    layer = Module().layer
    layer.reset_parameters()
    for item in list(items(poisoned))[:steps]:
        loss = nn.functional.cross_entropy(layer(item["x"][None]), item["y"][None])
        loss.backward()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter -= 0.5 * parameter.grad
                parameter.grad = None
    return layer


def test_fifty_requests(tmp_path):
    folder = trained(tmp_path / "trained")
    stream = RequestStream(tmp_path / "requests.json")
    rng = np.random.default_rng(0)
    # late images first: rewinding has somewhere to go; every tenth request is answered with a certificate
    names = [f"i{IMAGES - 1 - 2 * k - int(rng.integers(2))}" for k in range(REQUESTS)]
    mus, forgotten = [], set()
    for number, name in enumerate(names):
        forgotten.add(name)
        out = tmp_path / f"answer-{number}"
        if number % 10 == 9:
            release = certified(out, folder / "weights.safetensors", epsilon=1 + number / 10)
            content = json.loads((release / "certificate.json").read_text())
            mus.append(content["claim"]["mu"])
            entry = stream.answer_certified([name], release / "weights.safetensors", release / "certificate.json")
            assert entry["evidence"]["batches"] == "by the owner's word"  # no ledger in that run
        else:
            mus.append(0.0)
            weights = restore_to(folder, ForgetRequest.union([ForgetRequest.of([n]) for n in forgotten]), out)
            stream.answer_exact([name], weights)
            ledger, released = read_ledger(weights), Module()
            load_weights(released, weights)
            assert not forgotten & set(ledger.exposure.levels)
            assert ledger.steps >= min(int(n[1:]) for n in forgotten) - 3  # the last one, not just any
            witness = by_hand(forgotten, ledger.steps)
            assert torch.equal(witness.weight, released.layer.weight)
        assert stream.composed()["mu"] == pytest.approx(math.sqrt(sum(m * m for m in mus)))
        assert stream.composed(since=number)["mu"] == pytest.approx(mus[-1])
    assert len(stream) == REQUESTS
    assert set(stream.forgotten.limits) == forgotten
    again = RequestStream(tmp_path / "requests.json")
    assert again.entries == stream.entries
    total = again.composed()
    assert total["epsilon"] == pytest.approx(gdp_epsilon(total["mu"], 1e-7))
    assert all(later["previous"] == earlier["digest"] for earlier, later in pairwise(again.entries))


def test_fresh_gaussians_compose_in_quadrature_when_the_second_depends_on_the_first():
    """The adaptive composition, by Monte Carlo: the best test between two starts has the error that μ allows.

    The second release's noise, hence its μ, is picked by what the first one showed, but never more than its bound.
    """
    rng, n = np.random.default_rng(1), 400_000
    first, second = 0.8, 0.6
    statistics = []
    for start in (0.0, 1.0):
        y1 = start * first + rng.standard_normal(n)
        mu2 = np.where(y1 > 0.3, second, 0.5 * second)
        y2 = start * mu2 + rng.standard_normal(n)
        statistics.append(first * y1 - first**2 / 2 + mu2 * y2 - mu2**2 / 2)  # log likelihood ratio
    epsilon = 0.5
    delta = np.mean(statistics[1] > epsilon) - math.exp(epsilon) * np.mean(statistics[0] > epsilon)
    bound = math.hypot(first, second)
    assert gdp_delta(first, epsilon) < delta < gdp_delta(bound, epsilon) + 4 / math.sqrt(n)


def test_a_release_that_saw_an_earlier_request_is_refused(tmp_path):
    folder = trained(tmp_path / "trained")
    stream = RequestStream(tmp_path / "requests.json")
    stream.answer_exact(["i50"], restore_to(folder, ["i50"], tmp_path / "1"))
    later = restore_to(folder, ["i100"], tmp_path / "2")
    with pytest.raises(ValueError, match=r"exposed to what had to be forgotten by now: .* of 'i50'"):
        stream.answer_exact(["i100"], later)
    assert len(stream) == 1
    split = ForgetSplit.given(["i0"], ["i60"], coarsening={})
    stream.answer_exact(split, tmp_path / "1" / "weights.safetensors")
    assert stream.forgotten.limits["i60"] == Level.FOREGROUND


def saw(folder, *names):
    """Weights that saw the labels of some images, by their ledger."""
    module = Module()
    exposures = dict.fromkeys(module.state_dict(), Exposure(dict.fromkeys(names, Level.FORGET)))
    Ledger(weights_digest(module), exposures, 10, ({"origin": "test"},)).save(folder / "ledger.json")
    return save_weights(module, folder / "weights.safetensors")


def test_a_misspelt_id_is_no_request(tmp_path):
    """To a name that nobody knows all weights are unexposed, and the real image would stay in the later ones, too."""
    weights = saw(tmp_path / "1", "scan 3", "scan 4")
    stream = RequestStream(tmp_path / "requests.json")
    with pytest.raises(ValueError, match=r"names 'scan3' \(like 'scan 3', 'scan 4'\), which no ledger beside .* knows"):
        stream.answer_exact(["scan3"], weights)
    other = ForgetSplit.given(["x"], ["y"], coarsening={})
    with pytest.raises(ValueError, match=r"knows any of the 2 images of the split.*'x', the ledgers 'scan 3'"):
        stream.answer_exact(other, weights)
    with pytest.raises(ValueError, match=r"unrecorded gives the string"):
        stream.answer_exact(["x"], weights, unrecorded="x")
    assert len(stream) == 0
    meant = ["never seen", "scan 3"]
    entry = stream.answer_exact(meant, saw(tmp_path / "2", "scan 4"), unrecorded=meant)
    assert entry["evidence"]["names"] == "2 of 2, by the owner's word"
    assert entry["guarantee"].endswith("By the owner's word: ids that no record names are spelt as in the data.")
    entry = stream.answer_exact(["scan 3"], saw(tmp_path / "3", "scan 4"))  # it passed before
    assert entry["evidence"]["names"] == "recorded"


@pytest.mark.parametrize("known", ["folder", "ids"])
def test_ids_are_known_from_checkpoints_or_from_the_data(known, tmp_path):
    saw(tmp_path / "runs" / "1", "scan 3", "scan 4")
    weights = saw(tmp_path / "runs" / "2", "scan 4")
    given = {"folder": tmp_path / "runs", "ids": ["scan 3", "scan 4", "scan 5"]}[known]
    stream = RequestStream(tmp_path / "requests.json", known=given)
    entry = stream.answer_exact(["scan 3"], weights)
    assert entry["evidence"]["names"] == "recorded"
    assert "word" not in entry["guarantee"]
    with pytest.raises(ValueError, match=r"names 'scan3' \(like 'scan 3'"):
        stream.answer_exact(["scan3"], weights)
    with pytest.raises(ValueError, match="holds no ledger that can be read"):
        RequestStream(tmp_path / "2.json", known=tmp_path / "nowhere").answer_exact(["scan 3"], weights)


def test_what_rewind_checked_is_not_asked_again(tmp_path):
    folder = trained(tmp_path / "trained")
    stream = RequestStream(tmp_path / "requests.json")
    path = restore_to(folder, ["i50", "x"], tmp_path / "1", unrecorded=["x"])
    entry = stream.answer_exact(["i50", "x"], path)
    assert entry["evidence"]["names"] == "1 of 2, by the owner's word"
    both = ForgetRequest.of(["i50", "i60", "x"])
    path = restore_to(folder, both, tmp_path / "2", unrecorded=["x"])
    with pytest.raises(ValueError, match=r"names 'i61'"):
        stream.answer_exact(["i61"], path)
    assert stream.answer_exact(["i60"], path)["evidence"]["names"] == "recorded"
    fit(Module(), list(items())[:1], tmp_path / "3", Rewind(folder, ["i70"]))
    release = tmp_path / "3" / "unlearned" / "weights.safetensors"
    assert RequestStream(tmp_path / "2.json").answer_exact(["i70"], release)["evidence"]["names"] == "recorded"


@pytest.mark.filterwarnings("ignore:the history of these weights is unknown")
def test_certified_answers_are_to_images_that_something_names(tmp_path):
    start = trained(tmp_path / "trained") / "weights.safetensors"
    release = unlearned(tmp_path / "1", start, without("i5"), ExposureLedger(start.parent / "ledger.json"),
                        OutputPerturbation(epsilon=1.0, delta=1e-7, radius=0.1))  # fmt: skip
    files = release / "weights.safetensors", release / "certificate.json"
    stream = RequestStream(tmp_path / "requests.json")
    for request in (["i5"], ["i_5"], ForgetSplit.given(["x"], ["y"], coarsening={})):
        with pytest.raises(ValueError, match=r"which no ledger beside|knows any of the 2 images"):
            stream.answer_certified(request, *files)
    entry = RequestStream(tmp_path / "requests.json", known=start.parent).answer_certified(["i5"], *files)
    assert entry["evidence"]["names"] == "recorded"


def unlearned(folder, start, retained, *callbacks, steps=30, **options):
    """A certified run on some of the images."""
    module = Module()
    load_weights(module, start)
    operator = OutputPerturbation(epsilon=1.0, delta=1e-7, radius=0.1)
    fit(module, retained, folder, *(callbacks or (ExposureLedger(), operator)), max_steps=steps, **options)
    return folder / "unlearned"


def without(*names):
    return [item for item in list(items())[:20] if item["atoms"].removeprefix("foreground:") not in names]


@pytest.mark.filterwarnings("ignore:the history of these weights is unknown")
def test_a_certified_run_that_trained_on_a_request_is_refused(tmp_path):
    """Noise hides where a run began, not what its own batches teach it."""
    start = trained(tmp_path / "trained") / "weights.safetensors"
    stream = RequestStream(tmp_path / "requests.json", known=start.parent)
    again = unlearned(tmp_path / "again", start, without())
    with pytest.raises(ValueError, match=r"trained on what had to be forgotten by now, .*it saw FOREGROUND of 'i5'"):
        stream.answer_certified(["i5"], again / "weights.safetensors", again / "certificate.json")
    first = unlearned(tmp_path / "first", start, without("i5"))
    entry = stream.answer_certified(["i5"], first / "weights.safetensors", first / "certificate.json")
    assert entry["evidence"]["batches"] == read_ledger(first / "ledger.json").digest
    assert entry["guarantee"].endswith("By the owner's word: the run began at a fresh start.")
    second = unlearned(tmp_path / "second", start, without("i7"))
    with pytest.raises(ValueError, match=r"it saw FOREGROUND of 'i5'"):
        stream.answer_certified(["i7"], second / "weights.safetensors", second / "certificate.json")
    (second / "ledger.json").write_text((first / "ledger.json").read_text())
    with pytest.raises(ValueError, match="not those that the ledger was written for"):
        stream.answer_certified(["i7"], second / "weights.safetensors", second / "certificate.json")


def test_what_the_start_had_seen_is_no_batch_of_the_certified_run(tmp_path):
    """Its weights are exposed by their ledger, which knows of no noise; what the run itself held is not."""
    folder = trained(tmp_path / "trained")
    operator = GradientClipping(
        steps=3, radius=1e3, learning_rate=10.0, anchor="zeros"
    )  # the start is within its ball as it is
    ledger = ExposureLedger(folder / "ledger.json")
    release = unlearned(tmp_path / "1", folder / "weights.safetensors", without("i5"), ledger, operator)
    assert "i5" in read_ledger(release / "ledger.json").images
    stream = RequestStream(tmp_path / "requests.json")
    stream.answer_certified(["i5"], release / "weights.safetensors", release / "certificate.json")
    with pytest.raises(ValueError, match="it saw FOREGROUND of 'i6'"):
        RequestStream(tmp_path / "other.json").answer_certified(
            ["i6"], release / "weights.safetensors", release / "certificate.json"
        )


@pytest.mark.filterwarnings("ignore:the history of these weights is unknown")
@pytest.mark.parametrize("kept", [True, False])
def test_every_part_of_a_resumed_run_counts(kept, tmp_path):
    class Cut(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 6:
                raise RuntimeError("power cut")

    start = trained(tmp_path / "trained") / "weights.safetensors"
    operator = OutputPerturbation(epsilon=1.0, delta=1e-7, radius=0.1)
    every = ModelCheckpoint(tmp_path / "kept", filename="{step}", every_n_train_steps=5, save_top_k=-1)
    ledgers = [ExposureLedger()] if kept else []
    with pytest.raises(RuntimeError, match="power cut"):
        unlearned(tmp_path / "run", start, without("i9"), *ledgers, operator, every, Cut())
    release = unlearned(tmp_path / "run", start, without("i1", "i9"), ckpt_path=tmp_path / "kept" / "step=5.ckpt")
    files = release / "weights.safetensors", release / "certificate.json"
    stream = RequestStream(tmp_path / "requests.json", known=start.parent)
    if kept:
        with pytest.raises(ValueError, match="it saw FOREGROUND of 'i1'"):
            stream.answer_certified(["i1"], *files)
    with pytest.raises(ValueError, match="it saw FOREGROUND of 'i2'"):
        stream.answer_certified(["i2"], *files)
    batches = stream.answer_certified(["i9"], *files)["evidence"]["batches"]
    assert batches == (read_ledger(release / "ledger.json").digest if kept else "by the owner's word")


def test_without_a_ledger_it_is_a_word_that_the_split_must_not_contradict(tmp_path):
    class Data(pl.LightningDataModule):
        split = ForgetSplit.given(["i1", "i2"], ["i5"], coarsening={})

        def train_dataloader(self):
            return DataLoader([{"x": torch.ones(3), "y": torch.tensor(1)}])

    start, releases = save_weights(Module(), tmp_path / "weights.safetensors"), []
    for name in "ab":
        module = Module()
        load_weights(module, start)
        operator = OutputPerturbation(epsilon=1.0, delta=1e-7, radius=0.1, folder=tmp_path / name)
        fit(module, None, tmp_path, operator, max_steps=1, datamodule=Data())
        releases.append((tmp_path / name / "weights.safetensors", tmp_path / name / "certificate.json"))
    stream = RequestStream(tmp_path / "requests.json")
    with pytest.raises(ValueError, match="the certified run retained FOREGROUND of 'i2', by its split"):
        stream.answer_certified(ForgetSplit.given(["i1"], ["i2", "i5"], coarsening={}), *releases[0])
    with pytest.raises(ValueError, match="the certified run retained OUTSIDE of 'i5'"):
        stream.answer_certified(["i5"], *releases[0])
    entry = stream.answer_certified(Data.split, *releases[0])
    assert entry["evidence"]["batches"] == "by the owner's word"
    assert entry["guarantee"].endswith(
        "By the owner's word: the run began at a fresh start, and no batch of the run held an atom of any request so "
        "far."
    )
    (tmp_path / "b" / "split.json").unlink()
    with pytest.raises(ValueError, match=r"split\.json is not there, .* put the split of the run beside its weights"):
        stream.answer_certified(["i6"], *releases[1])
    ForgetSplit.given(["i1"], ["i5"], coarsening={}).save(tmp_path / "b" / "split.json")
    with pytest.raises(ValueError, match=r"split\.json is another one"):
        stream.answer_certified(["i6"], *releases[1])


def test_what_proves_nothing_is_refused(tmp_path):
    module = Module()
    path = save_weights(module, tmp_path / "0" / "weights.safetensors")
    stream = RequestStream(tmp_path / "requests.json")
    with pytest.raises(FileNotFoundError, match=r"ledger\.json"):
        stream.answer_exact(["a"], path)
    one, two = certified(tmp_path / "1", path, 1.0), certified(tmp_path / "2", path, 1.0)
    with pytest.raises(ValueError, match="belongs to other weights"):
        stream.answer_certified(["a"], two / "weights.safetensors", one / "certificate.json")
    stream.answer_certified(["a"], one / "weights.safetensors", one / "certificate.json")
    with pytest.raises(ValueError, match="answered an earlier request"):
        stream.answer_certified(["b"], one / "weights.safetensors", one / "certificate.json")
    Ledger.unexposed(module.state_dict(), "test").save(tmp_path / "0" / "ledger.json")
    with pytest.raises(ValueError, match="not the anchor of the certified run"):
        stream.answer_certified(["b"], two / "weights.safetensors", two / "certificate.json", anchor=path)
    content = json.loads((two / "certificate.json").read_text())
    content["mechanism"]["sigma"] *= 2
    (two / "certificate.json").write_text(json.dumps(content))
    with pytest.raises(VerificationError):
        stream.answer_certified(["b"], two / "weights.safetensors", two / "certificate.json")
