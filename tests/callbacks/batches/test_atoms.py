"""Whatever stands in a batch, the reader finds every atom of it, or refuses."""

from dataclasses import dataclass

import pytest
import torch
from ledger_runs import batch_of, item
from lightning.fabric.utilities.exceptions import MisconfigurationException

from erode.batch import FIELDS, Role
from erode.callbacks import ExposureLedger
from erode.callbacks.batches.atoms import AtomReader
from erode.datamodules import SyntheticDermoscopy
from erode.masks import View
from erode.requests.ledger import Level

FORGET, FOREGROUND, OUTSIDE, IMAGE = Level.FORGET, Level.FOREGROUND, Level.OUTSIDE, Level.IMAGE


def test_a_prior_exposes_to_all_fine_masks_from_the_first_batch_on():
    data = SyntheticDermoscopy(size=32, train_images=8, view=View.RETAIN, fine_fraction=0.25)
    name = data.split.coarse[0]
    batch = {**item(name, Role.UNLABELLED)}
    batch = {k: [v] if k == "id" else v[None] for k, v in batch.items()}
    assert set(AtomReader()(batch, data).levels) == {name}
    batch["prior"] = torch.full((1, 8, 8), 0.5)
    assert set(AtomReader()(batch, data).levels) == {name, *data.split.fine}
    assert AtomReader()(batch).unknown  # and without a split nobody knows whose masks they were


def test_drawing_by_class_exposes_to_every_class():
    data = SyntheticDermoscopy(size=32, train_images=8, class_balance=0.5, view=View.RETAIN)
    batch = {k: [v] if k == "id" else v[None] for k, v in item("train-00000", Role.UNLABELLED).items()}
    assert len(AtomReader()(batch, data).levels) == 8


def test_batches_of_strangers():
    tagged = {"x": 1, "atoms": ["forget:a:1", "image:b"]}
    assert AtomReader()(tagged).levels == {"a:1": FORGET, "b": IMAGE}
    assert AtomReader()({"one": tagged, "two": {"atoms": ["outside:b"]}}).levels == {"a:1": FORGET, "b": OUTSIDE}
    assert AtomReader(lambda batch: {str(batch[0]): "foreground"})((7, None)).levels == {"7": FOREGROUND}
    assert AtomReader({"outside": ["a"]})(None).levels == {"a": OUTSIDE}
    assert AtomReader()({"image": 0, "id": ["a"]}).levels == {"a": IMAGE}
    with pytest.raises(ValueError, match="no level of exposure"):
        AtomReader({"ring": ["a"]})
    for silent in ((1, 2), {"image": 0, "id": ["a"], "box": 1}, {"image": 0}):
        with pytest.raises(MisconfigurationException, match="nothing says which atoms"):
            AtomReader()(silent)


def test_an_id_under_several_levels_counts_at_the_highest():
    for atoms in ({"forget": ["a"], "outside": ["a", "b"]}, {"outside": ["a", "b"], "forget": ["a"]}):
        assert AtomReader(atoms)(None).levels == {"a": FORGET, "b": OUTSIDE}


@dataclass
class Part:
    """A batch of a type of its own."""

    id: list
    image: torch.Tensor
    mask: torch.Tensor
    role: torch.Tensor


@pytest.mark.parametrize("place", ["entry", "list", "deep", "dataclass", "tagged"])
def test_a_batch_among_the_entries_of_another_is_read_too(place):
    outer, second = batch_of(item("kept")), batch_of(item("secret", Role.FORGET))
    batch = {
        "entry": {**outer, "second": second},
        "list": {**outer, "others": [(second, 0)]},
        "deep": {**outer, "meta": {"x": {"second": second}}},
        "dataclass": {**outer, "second": Part(**second)},
        "tagged": {"x": 1, "atoms": ["foreground:kept"], "second": second},
    }[place]
    assert AtomReader()(batch).levels == {"kept": FOREGROUND, "secret": FORGET}


@pytest.mark.parametrize("lost", ["id", "role", "mask"])
def test_a_batch_within_another_that_cannot_be_read_is_refused(lost):
    second = {key: value for key, value in batch_of(item("secret")).items() if key != lost}
    outer = batch_of(item("kept"))
    alone = {"id": ["kept"], "image": {"pixels": 0, "mask": 0}}
    for batch in ({**outer, "second": second}, {**outer, "pair": {"x": second, "y": 0}}, alone):
        with pytest.raises(MisconfigurationException, match="nothing says which atoms a batch holds, or one that"):
            AtomReader()(batch)


def test_entries_that_are_no_batches_need_not_speak():
    flags = {"flags": {"ruler": torch.zeros(1)}, "paths": [["a.png"]], "spacing": (1.0, 1.0)}
    assert AtomReader()({**batch_of(item("a")), **flags}).levels == {"a": FOREGROUND}
    assert AtomReader()({"atoms": ["image:a"], "target": [{"id": 7, "box": 1}]}).levels == {"a": IMAGE}


@pytest.mark.parametrize("kind", ["function", "declared", "string", "id", "roles", "no id"])
def test_strangers_ids_are_strings(kind, tmp_path):
    """A request for '0' would find nothing in a ledger that counts 0, and prove what is not so."""
    numbered = {**{k: v[None] for k, v in item("a").items() if k != "id"}, "id": torch.tensor([0])}
    readers = {
        "function": (AtomReader(lambda batch: {0: "forget"}), None, "the function atoms= names an image 0, .* int"),
        "id": (AtomReader(), {"image": 0, "id": torch.tensor([0])}, "'id' of a batch names an image .* Tensor"),
        "roles": (AtomReader(), numbered, "'id' of a batch names an image .* Tensor"),
        "no id": (AtomReader(), {"atoms": ["forget"]}, "'forget', which names no image; each is 'LEVEL:id'"),
    }
    if kind in readers:
        reader, batch, match = readers[kind]
        with pytest.raises(MisconfigurationException, match=match):
            reader(batch)
        return
    names, match = {
        "declared": (range(8), "atoms= names an image 0, .* int; .* give str"),
        "string": ("scan 3", r"atoms= gives the string 'scan 3' where a list .* give \['scan 3'\]"),
    }[kind]
    with pytest.raises(ValueError, match=match):
        ExposureLedger("initialisation", atoms={"foreground": names})


def test_every_field_that_holds_labels_is_known():
    """A new label in the batch contract must not slip past the reader as an image-only batch."""
    assert {"mask", "coarse", "role", "prior", "artefact", "label", "flag"} | {"counted"} == set(FIELDS)


@pytest.mark.parametrize(
    "record", [{"id": ["p1"], "age": [40]}, {"id": torch.tensor([7])}, [{"id": "p1"}], {"role": ["nurse"]}]
)
def test_a_patients_record_beside_the_images_is_no_batch(record):
    plain = {k: [v] if k == "id" else v[None] for k, v in item("a", Role.RETAIN).items()}
    assert set(AtomReader()({**plain, "patient": record}).levels) == {"a"}
    assert AtomReader()({"image": 0, "atoms": ["outside:a"], "patient": record}).levels == {"a": OUTSIDE}
