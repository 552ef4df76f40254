"""Rewinding: the right checkpoint, its very bits, and a proof that holds."""

import json
import time
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rewind_runs import Module, checkpoint, fit, loader, run_with_checkpoints
from torch import nn

from erode.callbacks import Rewind
from erode.files import digest_of
from erode.masks import ForgetSplit
from erode.requests import (
    Exposure,
    ForgetRequest,
    Ledger,
    Level,
    find_unexposed,
    read_ledger,
    restore_to,
    rewind,
    rewinding,
)
from erode.weights import read_state, save_weights, state_digest, weights_digest


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run_with_checkpoints(tmp_path_factory.mktemp("trained"))


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
        with pytest.raises(ValueError, match=r"with Retrain.*step=1\.ckpt: .*it saw OUTSIDE of 'a'.*and 1 more"):
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
    assert find_unexposed(trained, ForgetRequest.of(["d", "e"]), known=["e"]).proof["unrecorded"] == ["e"]
    fit(Module(), loader(("e", "outside")), tmp_path, Rewind(trained, ["d", "never seen"], unrecorded=["never seen"]))
    record = json.loads((tmp_path / "unlearned" / "unlearning.json").read_text())
    assert record["unrecorded"] == ["never seen"]


def test_data_that_no_ledger_knows_vouches_for_nothing(trained):
    """Images that were renamed since: their new names are those of the data, and occur in no ledger."""
    renamed = ["a.png", "b.png", "c.png", "d.png"]
    with pytest.raises(
        ValueError, match=r"no ledger .* knows any of the 4 images of the data at hand.*'a\.png', .* 'a'"
    ):
        find_unexposed(trained, ForgetRequest.of(["c.png"]), known=renamed)
    split = ForgetRequest.of(ForgetSplit.given(renamed[:2], renamed[2:], coarsening={}))
    with pytest.raises(ValueError, match=r"knows any of the 4 images of the split"):
        find_unexposed(trained, split, known=renamed)
    found = find_unexposed(trained, split, known=renamed, unrecorded=renamed)
    assert found.proof["unrecorded"] == renamed


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
