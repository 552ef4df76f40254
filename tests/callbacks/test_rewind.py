"""Rewind: the right checkpoint, its very bits, a proof that holds, and nothing of the request afterwards."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from rewind_runs import Module, checkpoint, fit, loader, run_with_checkpoints
from torch import nn

from erode.callbacks import ExposureLedger, Rewind
from erode.masks import ForgetSplit
from erode.requests import (
    ForgetRequest,
    find_unexposed,
    read_ledger,
)
from erode.weights import read_state, state_digest, weights_digest


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run_with_checkpoints(tmp_path_factory.mktemp("trained"))


def test_the_split_of_the_data_names_images_too(trained, tmp_path):
    class Data(pl.LightningDataModule):
        split = ForgetSplit.given(["a"], ["b", "not served yet"], coarsening={})

        def train_dataloader(self):
            return loader(("a", "outside"))

    for request, refused in ((["d", "not served yet"], None), (["d", "not served"], "like 'not served yet'")):
        operator = Rewind(trained, request, "foreground", folder=tmp_path / request[-1])
        with pytest.raises(MisconfigurationException, match=refused) if refused else nullcontext():
            fit(Module(), None, tmp_path, operator, datamodule=Data())
        assert operator.released is (refused is None)


def test_a_split_of_the_data_that_no_ledger_knows_is_refused(trained, tmp_path):
    """Renamed files: the weights saw c.png and d.png as c and d."""

    class Renamed(pl.LightningDataModule):
        split = ForgetSplit.given(["b.png"], ["c.png", "d.png"], coarsening={})

        def train_dataloader(self):
            return loader(("b.png", "foreground"))

    for request in (None, ["c.png"]):
        with pytest.raises(MisconfigurationException, match=r"no ledger in .* knows any of the 3 images of the"):
            fit(Module(), None, tmp_path, Rewind(trained, request, "foreground"), datamodule=Renamed())
    fit(Module(), None, tmp_path / "meant", Rewind(trained, unrecorded="all"), datamodule=Renamed())
    record = json.loads((tmp_path / "meant" / "unlearned" / "unlearning.json").read_text())
    assert record["unrecorded"] == ["b.png", "c.png", "d.png"]


def test_a_rewind_starts_there_and_releases_with_a_ledger(trained, tmp_path):
    starts = []

    class See(pl.Callback):
        def on_train_start(self, trainer, module):
            starts.append((weights_digest(module), len(trainer.optimizers[0].state)))

    split = ForgetSplit.given(["b"], ["c", "d"], coarsening={}).save(tmp_path / "split.json")
    module = Module()
    fit(module, loader(("e", "outside"), ("b", "foreground")), tmp_path, Rewind(trained, split), See())
    assert starts == [(read_ledger(checkpoint(trained, 2)).weights, 0)]  # bit for bit, and no optimiser state
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert (record["guarantee"], record["epsilon"], record["delta"]) == ("exact", 0.0, 0.0)
    assert record["checkpoint_weights"] == state_digest(read_state(checkpoint(trained, 2)))
    assert record["restored_weights"] == record["checkpoint_weights"] == starts[0][0]
    assert "below the level" in record["why_unexposed"]
    ledger = read_ledger(tmp_path / "unlearned" / "weights.safetensors")
    assert ledger.weights == record["released_weights"] == weights_digest(module)
    assert set(ledger.exposure.levels) == {"a", "b", "e"}


def test_a_second_request_finds_the_release_of_the_first(trained, tmp_path):
    """The ledger goes on through a rewind: a release can be rewound to, or not, by what it saw since."""
    fit(Module(), loader(("e", "outside")), tmp_path / "1", Rewind(trained, ["d"]))
    later = find_unexposed(tmp_path / "1", ForgetRequest.of(["d"]), unrecorded=["d"])
    assert later.path.name == "weights.safetensors"
    with pytest.raises(ValueError, match="it saw OUTSIDE of 'e'"):
        find_unexposed(tmp_path / "1", ForgetRequest.of(["e"]))


class Cut(pl.Callback):
    """The run breaks off after its second step."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            raise RuntimeError("power cut")


@pytest.fixture
def cut_short(trained, tmp_path):
    """A run that rewound for a split and was cut short: its checkpoint, and the file of the split."""
    split = ForgetSplit.given(["b"], ["c", "d"], coarsening={}).save(tmp_path / "split.json")
    kept = ModelCheckpoint(tmp_path / "kept", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    data = loader(("e", "outside"), ("f", "outside"), ("g", "outside"))
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Module(), data, tmp_path, Rewind(trained, split), kept, Cut())
    return tmp_path / "kept" / "step=1.ckpt", split


def test_a_run_that_was_cut_short_goes_on_for_the_same_request(trained, cut_short, tmp_path):
    path, split = cut_short
    fit(Module(), loader(("b", "outside")), tmp_path, Rewind(trained, split), max_steps=3, ckpt_path=path)
    ledger = read_ledger(tmp_path / "unlearned" / "weights.safetensors")
    assert set(ledger.exposure.levels) == {"a", "b", "e"}
    assert ledger.why_exposed(ForgetRequest.of(split).limits) is None


def test_a_run_does_not_go_on_for_another_request(trained, cut_short, tmp_path):
    """The file of the split may be another by then, and the record would still name the first."""
    path, split = cut_short
    split.unlink()
    ForgetSplit.given(["b", "c"], ["e"], coarsening={}).save(split)
    data = loader(("b", "outside"), ("c", "foreground"))
    with pytest.raises(
        MisconfigurationException, match=r"another request, 3 images .*: b, c, d; .* 3 images .*: b, c, e"
    ):
        fit(Module(), data, tmp_path, Rewind(trained, split), max_steps=3, ckpt_path=path)
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


def test_a_run_does_not_go_on_from_weights_that_nothing_proves(trained, cut_short, tmp_path):
    path, split = cut_short
    content = torch.load(path, weights_only=True)
    del content["erode_ledger"]
    torch.save(content, tmp_path / "bare.ckpt")
    with pytest.raises(
        MisconfigurationException, match=r"bare\.ckpt were exposed to the request: .*history is unknown"
    ):
        fit(Module(), loader(("e", "outside")), tmp_path, Rewind(trained, split), max_steps=3,
            ckpt_path=tmp_path / "bare.ckpt")  # fmt: skip


def test_what_its_own_ledger_does_not_prove_is_not_released(trained, tmp_path):
    class Meddle(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            module.register_buffer("remembered", torch.ones(3))

    with pytest.raises(MisconfigurationException, match=r"nothing is released: .* exposed to the request: .*unknown"):
        fit(Module(), loader(("e", "outside")), tmp_path, Rewind(trained, ["d"]), Meddle())
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()
    assert json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())["completed"] is False


def test_the_loader_must_not_teach_it_again(trained, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"training loader serves what has to be forgotten.*of 'c'"):
        fit(Module(), loader(("a", "outside"), ("c", "image")), tmp_path, Rewind(trained, ["c", "d"]))
    assert not (tmp_path / "unlearned" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("operator", "error"),
    [
        (lambda folder: Rewind(folder, ["a"]), "no checkpoint in .* is unexposed .* unlearn with Retrain"),
        (lambda folder: Rewind(folder / "nowhere", ["a"]), "no folder of checkpoints"),
        (lambda folder: Rewind(folder), "nothing says what to forget"),
    ],
)
def test_bad_wiring_is_refused_before_the_first_step(trained, tmp_path, operator, error):
    module = Module()
    before = weights_digest(module)
    with pytest.raises(MisconfigurationException, match=error):
        fit(module, loader(("e", "outside")), tmp_path, operator(trained))
    assert weights_digest(module) == before
    with pytest.raises(ValueError, match="no split at"):
        Rewind(trained, "nothing.json")


def test_another_architecture_is_refused(trained, tmp_path):
    module = Module()
    module.network[2] = nn.Linear(8, 3)
    with pytest.raises(MisconfigurationException, match="another architecture"):
        fit(module, loader(("e", "outside")), tmp_path, Rewind(trained, ["d"]))


def test_weight_averaging_is_refused(trained, tmp_path):
    with pytest.raises(MisconfigurationException, match="averages in the weights from before"):
        fit(Module(), loader(("e", "outside")), tmp_path, EMAWeightAveraging(), Rewind(trained, ["d"]))


def test_two_processes_count_what_both_saw_and_restore_the_same(tmp_path, as_script):
    as_script(__file__, tmp_path)
    whole = read_ledger(tmp_path / "train" / "ledger.json")
    assert set(whole.exposure.levels) == {"a", "b", "e", "f"}  # each process saw two of them
    fit(Module(), loader(("g", "outside")), tmp_path / "one", Rewind(tmp_path / "checkpoints", ["f"]))
    releases = [tmp_path / name / "unlearned" for name in ("one", "two")]
    one, two = (json.loads((folder / "unlearning.json").read_text()) for folder in releases)
    assert one["restored_weights"] == two["restored_weights"]
    assert one["checkpoint_weights"] == two["checkpoint_weights"]
    levels = [read_ledger(folder / "weights.safetensors").exposure.levels for folder in releases]
    assert set(levels[1]) == {*levels[0], "h"}


class PerRank(pl.LightningDataModule):
    """Serves other images to each process."""

    def __init__(self, *ranks):
        super().__init__()
        self.ranks = ranks

    def train_dataloader(self):
        return loader(*self.ranks[self.trainer.global_rank])


def two_processes(out):
    every = ModelCheckpoint(out / "checkpoints", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    atoms = PerRank([("a", "outside"), ("b", "outside")], [("e", "outside"), ("f", "outside")])
    fit(Module(), None, out / "train", ExposureLedger("initialisation"), every, devices=2, datamodule=atoms)
    both = PerRank([("g", "outside")], [("h", "outside")])
    fit(Module(), None, out / "two", Rewind(out / "checkpoints", ["f"]), devices=2, datamodule=both)


if __name__ == "__main__":
    torch.set_num_threads(1)
    two_processes(Path(sys.argv[1]))
