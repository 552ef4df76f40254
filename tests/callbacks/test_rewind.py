"""Rewind: the right checkpoint, its very bits, a proof that holds, and nothing of the request afterwards."""

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from erode import rewinding
from erode.callbacks import ExposureLedger, Rewind
from erode.files import digest_of
from erode.masks import ForgetSplit
from erode.requests import Exposure, ForgetRequest, Ledger, Level, find_unexposed, read_ledger, restore_to, rewind
from erode.weights import read_state, save_weights, state_digest, weights_digest

ORDER = [("a", "outside"), ("b", "foreground"), ("c", "forget"), ("d", "forget")]


class Module(pl.LightningModule):
    """Takes batches of a type of its own; ``atoms`` says what they hold."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.network(batch["x"]), batch["y"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def loader(*atoms, copies=4):
    generator = torch.Generator().manual_seed(len(atoms))
    items = [
        {"x": torch.randn(4, generator=generator), "y": torch.tensor(i % 2), "atoms": f"{level}:{name}"}
        for name, level in atoms
        for i in range(copies)
    ]
    return DataLoader(items, batch_size=copies)


def fit(module, data, folder, *callbacks, devices=1, max_steps=-1, **options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", max_steps=max_steps,
        max_epochs=1 if max_steps < 0 else -1, callbacks=list(callbacks), default_root_dir=folder, logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks), enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data, **options)
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run over a, b, c, d in this order with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("trained")
    every = ModelCheckpoint(folder / "checkpoints", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit(Module(), loader(*ORDER), folder, ExposureLedger("initialisation"), every)
    return folder


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step={step}.ckpt"


@pytest.mark.parametrize(
    ("request_", "atoms", "step"),
    [
        (["d"], "image", 3),
        (["c", "d"], "image", 2),
        (["b"], "image", 1),
        (["b"], "forget", 4),  # only its fine mask was seen
        (["a"], "foreground", 4),  # only what the retain view keeps
        (["a"], "outside", None),
        (ForgetSplit.given(["b"], ["a", "c", "d"], coarsening={}), "image", 2),
        (ForgetSplit.given(["a", "c", "d"], ["b"], coarsening={}), "image", 1),
    ],
)
def test_the_last_unexposed_checkpoint_is_found(trained, request_, atoms, step):
    wanted = ForgetRequest.of(request_, atoms)
    if step is None:
        with pytest.raises(ValueError, match=r"step=1\.ckpt: .*it saw OUTSIDE of 'a'.*unlearn with Retrain"):
            find_unexposed(trained, wanted)
        return
    found = find_unexposed(trained, wanted)
    assert found.path == checkpoint(trained, step)
    assert found.proof["checkpoint_weights"] == state_digest(read_state(found.path))
    assert {Path(r["file"]).name for r in found.proof["passed_over"]} == {f"step={k}.ckpt" for k in range(step + 1, 5)}


def test_an_id_that_no_ledger_names_is_not_answered_in_vain(trained, tmp_path):
    """Whatever the weights saw, they are unexposed to a name that is misspelt."""
    with pytest.raises(ValueError, match=r"names 'D' \(like 'd'\); 'never seen', which no ledger in .* knows"):
        restore_to(trained, ["D", "c", "never seen"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(MisconfigurationException, match=r"'d ' \(like 'd'\)"):
        fit(Module(), loader(("e", "outside")), tmp_path, Rewind(trained, ["d "]))
    with pytest.raises(ValueError, match=r"unrecorded gives the string 'x' where a list .* belongs"):
        restore_to(trained, ["d", "x"], tmp_path / "out", unrecorded="x")
    other = ForgetSplit.given(["x"], ["y", "z"], coarsening={})
    with pytest.raises(ValueError, match=r"knows any of the 3 images of the split.*'x', the ledgers 'a'"):
        restore_to(trained, other, tmp_path / "out")


def test_ids_that_no_ledger_names_can_be_meant(trained, tmp_path):
    path = rewind(trained, ["d", "never seen"], tmp_path / "1", unrecorded=["never seen"])
    assert read_ledger(path).weights == read_ledger(checkpoint(trained, 3)).weights
    assert json.loads((tmp_path / "1" / "rewind.json").read_text())["unrecorded"] == ["never seen"]
    with pytest.raises(ValueError, match=r"names 'd', .*unrecorded=\['d'\]"):
        restore_to(tmp_path / "1", ["d"], tmp_path / "2")  # forgotten; the ledgers that named it are elsewhere
    restore_to(tmp_path / "1", ["d"], tmp_path / "2", unrecorded=ForgetRequest.of(["d"]).limits)
    restore_to(trained, ForgetSplit.given(["x"], ["y"], coarsening={}), tmp_path / "3", unrecorded="all")
    partly = ForgetSplit.given(["a"], ["d", "not served yet"], coarsening={})  # nobody typed the names of a split
    assert find_unexposed(trained, ForgetRequest.of(partly)).path == checkpoint(trained, 3)
    assert find_unexposed(trained, ForgetRequest.of(["d", "e"]), known=["e"]).proof["unrecorded"] == []
    fit(Module(), loader(("e", "outside")), tmp_path, Rewind(trained, ["d", "never seen"], unrecorded=["never seen"]))
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert record["unrecorded"] == ["never seen"]


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


@pytest.mark.parametrize("name", [0, torch.tensor(0), None, b"0"])
def test_ids_are_strings(name):
    """One that is not would match none of a ledger, and prove all weights unexposed."""
    kind = type(name).__name__
    with pytest.raises(ValueError, match=f"the request names an image .* of type {kind}; ids are strings"):
        ForgetRequest.of(["a", name])
    with pytest.raises(ValueError, match="ids are strings"):
        ForgetRequest.of(ForgetSplit.given(["a"], [name], coarsening={}))
    with pytest.raises(ValueError, match="ids are strings"):
        Exposure({name: Level.IMAGE})


def test_a_ledger_of_numbers_proves_nothing(tmp_path):
    module = Module()
    content = Ledger.unexposed(module.state_dict(), "test").content()
    content["groups"][0]["exposure"]["FORGET"] = [0]
    del content["digest"]
    (tmp_path / "ledger.json").write_text(json.dumps({**content, "digest": digest_of(content)}))
    save_weights(module, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"ledger\.json: .* names an image 0, .*unlearn with Retrain"):
        find_unexposed(tmp_path, ForgetRequest.of(["0"]))


def test_restored_weights_are_the_stored_ones_bit_for_bit(trained, tmp_path):
    path = rewind(trained, ["d"], tmp_path / "out")
    stored = torch.load(checkpoint(trained, 3), weights_only=True)["state_dict"]
    restored = read_state(path)
    assert restored.keys() == stored.keys()
    assert all(torch.equal(restored[k], stored[k]) and restored[k].dtype == stored[k].dtype for k in stored)
    assert read_ledger(path).why_exposed({"d": Level.IMAGE}) is None
    proof = json.loads((tmp_path / "out" / "rewind.json").read_text())
    assert (proof["guarantee"], proof["checkpoint_weights"]) == ("exact", state_digest(stored))
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        rewind(trained, ["d"], tmp_path / "out")


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


def test_swapped_weights_and_edited_ledgers_are_passed_over(tmp_path):
    """Weights under another's ledger, or a ledger that was cut, are never restored."""
    clean, dirty = Module(), Module()
    Ledger.unexposed(clean.state_dict(), "initialisation").save(tmp_path / "ledger.json")
    save_weights(dirty, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not those that the ledger was written for"):
        find_unexposed(tmp_path, ForgetRequest.of(["a"]))
    save_weights(clean, tmp_path / "weights.safetensors")
    assert find_unexposed(tmp_path, ForgetRequest.of(["a"])).ledger.weights == weights_digest(clean)
    (tmp_path / "broken.ckpt").write_bytes(b"cut off")
    assert find_unexposed(tmp_path, ForgetRequest.of(["a"])).proof["passed_over"][0]["file"].endswith("broken.ckpt")
    content = json.loads((tmp_path / "ledger.json").read_text())
    (tmp_path / "ledger.json").write_text(json.dumps({**content, "steps": 9}))
    with pytest.raises(ValueError, match="edited"):
        find_unexposed(tmp_path, ForgetRequest.of(["a"]))


@pytest.mark.parametrize("moment", ["after the look", "after the check"])
def test_what_is_restored_is_what_was_proved(tmp_path, monkeypatch, moment):
    """Weights stay in the file until they are copied, and someone may write to it in between."""
    path = tmp_path / "a.ckpt"
    state = {"weight": torch.ones(3)}
    torch.save({"state_dict": state, "erode_ledger": Ledger.unexposed(state, "test").text}, path)

    def and_write(step):
        def stepped(*arguments, **keywords):
            result = step(*arguments, **keywords)
            at = path.read_bytes().index(torch.ones(3).numpy().tobytes())
            with path.open("r+b") as file:
                file.seek(at)
                file.write(torch.full((3,), 2.0).numpy().tobytes())
            return result

        return stepped

    at = "read_ledger" if moment == "after the look" else "find_unexposed"
    monkeypatch.setattr(rewinding, at, and_write(getattr(rewinding, at)))
    with pytest.raises(ValueError, match="not those that the ledger was written for"):
        restore_to(tmp_path, ForgetRequest.of(["a"]), tmp_path / "out")
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_it_takes_the_time_of_loading_a_file(tmp_path):
    """Forty checkpoints of 8 MB cost what one does: ledgers are read without their weights."""
    module = nn.Linear(1, 1)
    for number in range(40):
        state = {"weight": torch.full((2_000_000,), float(number))}
        ledger = Ledger(state_digest(state), Ledger.unexposed(state, "test").exposures, steps=number)
        torch.save({"state_dict": state, "erode_ledger": ledger.text}, tmp_path / f"{number:02d}.ckpt")
    del module

    def read_one():
        state_digest(read_state(tmp_path / "39.ckpt"))

    def seconds(work):
        times = []
        for _ in range(3):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    wanted = ForgetRequest.of(["a"])
    assert seconds(lambda: find_unexposed(tmp_path, wanted)) < 10 * seconds(read_one)  # not 40
    assert restore_to(tmp_path, wanted, tmp_path / "out").exists()


def test_two_processes_count_what_both_saw_and_restore_the_same(tmp_path):
    run = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
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
