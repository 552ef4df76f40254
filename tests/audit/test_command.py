"""The verb: members and non-members are what they are said to be, and an attack that must work does."""

import csv
import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.utils.data import default_collate

from erode.audit import audit
from erode.audit.forget_atoms import ForgetAtoms, comparable_cases, log_likelihood
from erode.batch import Role
from erode.cli import main
from erode.datamodules import ImageFolderDataModule, SyntheticDermoscopy
from erode.files import write_atomically
from erode.masks import ForgetSplit, View
from erode.metrics import MembershipInference
from erode.weights import load_weights, save_weights

torch.set_num_threads(1)


class Pixelwise(LightningModule):
    """One logit per class from the pixel alone."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 1)

    def forward(self, image):
        return self.layer(image)


def data(**options):
    small = {"size": 32, "train_images": 24, "val_images": 14, "test_images": 8, "batch_size": 5, "fine_fraction": 0.25}
    return SyntheticDermoscopy(**{**small, **options})


@pytest.fixture
def checkpoints(tmp_path):
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        paths.append(save_weights(Pixelwise(), tmp_path / f"{seed}" / "weights.safetensors"))
    return paths


def run(checkpoints, out, source=None, **options):
    settings = {"out": out, "bootstrap": 50, "accelerator": "cpu", **options}
    return json.loads(audit(source or data(), Pixelwise(), *checkpoints, **settings).read_text())


def test_members_are_the_forget_atoms_of_the_coarse_images():
    source = data()
    members, others = comparable_cases(source, "val", seed=0)
    assert {case.id for case in members} == set(source.split.coarse)
    assert {case.part for case in others} == {"val"}
    atoms = ForgetAtoms([*members, *others], len(members), source)
    source.serve(View.COARSE)
    trained = source.dataset("train")
    served = {case.id: trained[index] for index, case in enumerate(trained.cases)}
    for index, case in enumerate(members):
        item = atoms[index]
        assert item["member"]
        assert torch.equal(item["forget"], served[case.id]["role"] == Role.FORGET)
        assert torch.equal(item["mask"], served[case.id]["mask"])
        assert torch.equal(item["image"], served[case.id]["image"])
        fine = torch.from_numpy(source.read(case).mask)
        assert torch.equal(item["ring"], item["forget"] & (fine == 0))
    for index, case in enumerate(others):
        item = atoms[len(members) + index]
        assert not item["member"]
        coarse = torch.from_numpy(source.coarsening(source.read(case).mask)).long()
        assert torch.equal(item["forget"], coarse > 0)
        assert torch.equal(item["mask"], coarse)


def test_classes_have_the_same_shares_on_both_sides():
    source = data(train_images=80, val_images=40, prevalence=0.25)
    members, others = comparable_cases(source, "val", seed=0)
    share = [np.mean([case.label == 2 for case in side]) for side in (members, others)]
    assert share[0] == pytest.approx(share[1], abs=0.03)
    again = comparable_cases(source, "val", seed=0)[1]
    assert [case.id for case in again] == [case.id for case in others]


def test_the_likelihood_is_minus_the_cross_entropy():
    logits, mask = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    found = log_likelihood(torch.nn.Identity(), logits, mask)
    expected = torch.nn.functional.cross_entropy(logits.double(), mask, reduction="none")
    assert torch.allclose(found, -expected)
    with pytest.raises(ValueError, match="one logit per pixel and class"):
        log_likelihood(torch.nn.Identity(), logits[:, :1], mask)


def test_the_numbers_are_those_of_a_computation_by_hand(checkpoints, tmp_path):
    content = run(checkpoints, tmp_path / "out")
    source = data()
    members, others = comparable_cases(source, "val", seed=0)
    atoms = ForgetAtoms([*members, *others], len(members), source)
    batch = default_collate([atoms[index] for index in range(len(atoms))])
    scores = []
    for path in checkpoints:
        model = Pixelwise()
        load_weights(model, path)
        with torch.no_grad():
            scores.append(model(batch["image"]).double().log_softmax(1).gather(1, batch["mask"][:, None])[:, 0])
    attacks = {"loss": scores[0], "loss_reference": scores[1], "ratio": scores[0] - scores[1]}
    for stratum in ("forget", "ring"):
        label = batch["member"][:, None, None].expand(batch[stratum].shape)[batch[stratum]]
        for name, values in attacks.items():
            found = content["strata"][stratum]["attacks"][name]["atom"]
            assert found["auc"] == pytest.approx(roc_auc_score(label, values[batch[stratum]]), abs=1e-6)
            assert found["members"] == int(label.sum())
        auc = {name: roc_auc_score(label, values[batch[stratum]]) for name, values in attacks.items()}
        difference = content["strata"][stratum]["auc_difference"]["atom"]
        assert difference["value"] == pytest.approx(auc["loss"] - auc["loss_reference"], abs=1e-6)
        metrics = {}
        for name in ("loss", "loss_reference"):
            metrics[name] = MembershipInference(bootstrap=50)
            numbers = {"image": batch["index"], "stratum": batch["label"], "cluster": batch["cluster"]}
            metrics[name].update(attacks[name], batch[stratum], batch["member"], **numbers)
        one, other = (metric.result() for metric in metrics.values())
        for level in ("atom", "image"):
            _, interval = getattr(one, level).minus(getattr(other, level))
            found = content["strata"][stratum]["auc_difference"][level]["interval"]
            assert found == pytest.approx(list(interval), abs=1e-6)
    assert content["images"]["members"] == {"benign lesion": 9, "malignant lesion": 9}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"audit.json", "audit.md", "roc.png", "roc_ring.png"}


class Memory(Pixelwise):
    """Knows the images that it was trained on by the sum of their pixels, and finds lesions in them alone."""

    def __init__(self):
        super().__init__()
        self.register_buffer("known", torch.zeros(18, dtype=torch.float64))

    def forward(self, image):
        member = (image.double().sum((1, 2, 3))[:, None] - self.known).abs().amin(1) < 1e-6
        logits = torch.zeros_like(image)
        logits[:, 1:] = 2.0 * member[:, None, None, None]
        return logits


def test_a_model_that_remembers_is_caught_and_chance_is_chance(tmp_path):
    source = data()
    members, _ = comparable_cases(source, "val", seed=0)
    original, retrained = Memory(), Memory()
    original.known.copy_(torch.tensor([source.read(case).image.sum(dtype=np.float64) for case in members]))
    paths = [save_weights(m, tmp_path / f"{n}.safetensors") for n, m in enumerate((original, retrained))]
    result = audit(source, Memory(), *paths, out=tmp_path / "out", bootstrap=100, accelerator="cpu")
    stratum = json.loads(result.read_text())["strata"]["forget"]
    for level in ("atom", "image"):
        for name in ("loss", "ratio"):
            attack = stratum["attacks"][name][level]
            assert attack["auc"] == attack["tpr"] == 1.0
            assert not attack["chance_lies_inside"]
        assert stratum["attacks"]["loss_reference"][level]["auc"] == 0.5
        assert stratum["attacks"]["loss_reference"][level]["chance_lies_inside"]
        low, high = stratum["auc_difference"][level]["interval"]
        assert 0 < low < 0.5 < high


def test_on_the_command_line_from_configurations(tmp_path, capsys):
    configs = files("erode.configs")
    usual = ["--config", str(configs / "data/synthetic.yaml"), "--config", str(configs / "model/unet.yaml")]
    usual += ["--data.size=32", "--data.train_images=24", "--data.val_images=8", "--data.batch_size=4"]
    short = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.logger=false",
             "--trainer.enable_progress_bar=false", "--trainer.num_sanity_val_steps=0"]  # fmt: skip
    for seed in (0, 1):
        main(["fit", *usual, *short, f"--seed_everything={seed}", f"--trainer.default_root_dir=fit-{seed}"])
    attack = ["--weights=fit-0/weights.safetensors", "--reference=fit-1/weights.safetensors", "--bootstrap=20"]
    main(["audit", *usual, *attack, "--accelerator=cpu"])
    said = capsys.readouterr().out
    assert "likelihood ratio" in said
    assert "images of val to compare with: fewer than 100 cannot tell a false positive rate of 0.01 from none" in said
    assert "runs/audit-0/audit.json" in said
    content = json.loads((tmp_path / "runs/audit-0/audit.json").read_text())
    assert content["split"]["found beside"] == ["weights", "reference"]
    assert content["split"]["digest"] == ForgetSplit.load(tmp_path / "fit-0/split.json").digest
    with pytest.raises(ValueError, match=r"another split than the data's.*give --data\.split_file=fit-0/split\.json"):
        main(["audit", *usual, *attack, "--data.split_seed=5", "--accelerator=cpu"])


class OnlyTraining(SyntheticDermoscopy):
    def cases(self):
        return [case for case in super().cases() if case.part == "train"]


def test_what_cannot_be_compared_is_refused(checkpoints, tmp_path):
    with pytest.raises(ValueError, match="hold the same weights"):
        run([checkpoints[0]] * 2, tmp_path / "out")
    run(checkpoints, tmp_path / "out")
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        run(checkpoints, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        run([checkpoints[0], tmp_path / "absent.safetensors"], tmp_path / "other")
    with pytest.raises(ValueError, match="no foreground class has both"):
        run(checkpoints, tmp_path / "other", source=OnlyTraining(size=32, train_images=24, fine_fraction=0.25))
    assert not (tmp_path / "other").exists()


def test_drawn_masks_on_one_side_only_are_refused(tmp_path):
    """Hand-drawn outlines and dilations differ in kind, and any attack would see that."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(12):
        mask = np.zeros((16, 16), np.uint8)
        mask[5:9, 6:10] = 255
        part = "train" if index < 8 else "val"
        kinds = {"images": rng.integers(0, 255, (16, 16, 3), np.uint8)}
        kinds |= {"boxes": np.maximum(mask, np.roll(mask, 1, 0))} if index < 6 else {"masks": mask}
        for kind, array in kinds.items():
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / f"{index}.png")
        rows.append({"image_id": f"{index}", "split": part})
    _write_table(tmp_path / "table.csv", rows)
    source = ImageFolderDataModule(
        root=tmp_path, coarse_masks="boxes", table="table.csv", id_column="image_id", split_column="split"
    )
    with pytest.raises(ValueError, match=r"have no coarse mask file, e\.g\. .* derive all"):
        comparable_cases(source, "val", seed=0)


def _write_table(path, rows):
    def write(target):
        with target.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)
