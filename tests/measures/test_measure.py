"""The verb: numbers against an independent count, what the data lack is left out, and wrong files are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.metrics import jaccard_score, roc_auc_score

from erode.audit.subjects import restored
from erode.callbacks.batches.bottleneck import find_bottleneck
from erode.certificates import Account, Target, VerificationError, certificate, save_certificate
from erode.cli import main
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.masks import ForgetSplit
from erode.measures import measure
from erode.measures.certified import claimed
from erode.measures.held_out import ranked_class
from erode.measures.table import sweep_figure
from erode.mechanisms import OutputPerturbationMechanism
from erode.metrics import (
    LinearProbe,
    balanced_subset,
    certified_interval,
    pixel_indistinguishability,
    pooled_features,
)
from erode.weights import read_state, save_weights, state_digest

torch.set_num_threads(1)


class Pixelwise(LightningModule):
    """Logits from a pixel and its neighbours; the first layer is the bottleneck."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.last = torch.nn.ConvTranspose2d(4, 3, 2, stride=2)

    def forward(self, image):
        return self.last(torch.relu(self.first(image)))


def data(**options):
    small = {"size": 32, "train_images": 24, "val_images": 24, "test_images": 8, "batch_size": 5, "fine_fraction": 0.25}
    return SyntheticDermoscopy(**{**small, **options})


def saved(folder, module):
    return save_weights(module, folder / "weights.safetensors")


@pytest.fixture
def files(tmp_path):
    """Three networks of random weights that predict all classes."""
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        module = Pixelwise()
        with torch.no_grad():
            module.last.weight *= 4
        paths.append(saved(tmp_path / f"net{seed}", module))
    return paths


def run(out, source=None, model=None, **options):
    settings = {"out": out, "bootstrap": 20, "accelerator": "cpu", **options}
    path = measure(source or data(), model or Pixelwise(), **settings)
    return json.loads(path.read_text())


def network_of(path):
    return restored(Pixelwise(), path)


def test_numbers_are_those_of_an_independent_count(files, tmp_path):
    found = run(tmp_path / "out", weights=files[0], reference=files[1], original=files[2])["values"]
    source = data()
    source.setup("fit")
    unlearnt, retrained = network_of(files[0]), network_of(files[1])
    kept = {"forget": [], "ring": []}
    moved, overlap = [], []
    for case in source.part("train"):
        if case.id in source.split.fine:
            continue
        arrays = source.pixels(case)
        coarse = source.coarsening(arrays.mask)
        image = torch.from_numpy(arrays.image)[None]
        with torch.inference_mode():
            probs, expected = (net(image).softmax(1)[0].double().numpy() for net in (unlearnt, retrained))
        prediction, other = probs.argmax(0), expected.argmax(0)
        where = {"forget": coarse > 0, "ring": (coarse > 0) & (arrays.mask == 0)}
        for name, inside in where.items():
            kept[name].append((prediction == case.label)[inside])
        moved.append(np.sqrt(((probs - expected) ** 2).sum(0))[where["forget"]])
        overlap.append(jaccard_score((other > 0).ravel(), (prediction > 0).ravel(), zero_division=1))
    mine = found["unlearnt"]
    assert mine["forget_original_label"] == pytest.approx(np.concatenate(kept["forget"]).mean(), abs=1e-12)
    assert mine["ring_original_label"] == pytest.approx(np.concatenate(kept["ring"]).mean(), abs=1e-12)
    assert mine["forget_activation"] == pytest.approx(np.concatenate(moved).mean(), abs=1e-6)
    assert mine["forget_completeness"] == pytest.approx(np.mean(overlap), abs=1e-6)

    cases = source.part("val")
    images = torch.stack([torch.from_numpy(source.pixels(case).image) for case in cases])
    with torch.inference_mode():
        score = unlearnt(images).softmax(1)[:, 2].flatten(1).mean(1)
    assert mine["auroc"] == pytest.approx(roc_auc_score([case.label == 2 for case in cases], score), abs=1e-12)
    weights = [torch.cat([p.flatten() for p in network_of(path).parameters()]).double() for path in files]
    ratio = (weights[2] - weights[0]).norm() / (weights[2] - weights[1]).norm()
    assert mine["weights_ratio"] == pytest.approx(ratio.item(), rel=1e-6)


def test_the_reference_is_not_compared_with_itself_and_a_second_one_is(files, tmp_path):
    values = run(tmp_path / "out", weights=files[0], reference=[files[1], files[2]])["values"]
    assert list(values) == ["unlearnt", "retrained", "retrained again"]
    assert "forget_js" not in values["retrained"]
    assert values["retrained again"]["forget_js"] > 0
    assert "completeness" not in values["retrained"]
    table = (tmp_path / "out" / "measures.md").read_text()
    assert "| measure | unlearnt | retrained | retrained again | ideal |" in table
    assert "completeness: Jaccard with retrained, forget images" in table


def test_what_the_data_do_not_tell_is_left_out(files, tmp_path):
    """Images without a known flag fall into no group: no sweep, no probe, no balanced set."""
    source = data()
    source.flag = "pen"
    found = run(tmp_path / "out", source, weights=files[0], reference=files[1])
    mine = found["values"]["unlearnt"]
    assert mine["auroc"] is not None
    assert {mine[name] for name in ("auroc_robust", "auroc_balanced", "probe_auroc", "group_dice_worst")} == {None}
    assert "gap_mean" not in mine
    assert not (tmp_path / "out" / "sweep.png").exists()
    table = (tmp_path / "out" / "measures.md").read_text()
    assert "linear probe" not in table
    assert found["left out"].keys() == {"auroc_balanced", "auroc_inverted", "sweep"}
    assert "- AUROC, balanced held-out set: left out, no image has a known artefact flag (class 1: " in table
    assert "- AUROC over other rates of the artefact: left out, the test set has no image with y=" in table


class OneClass(SyntheticDermoscopy):
    def cases(self):
        return [case for case in super().cases() if case.label == 1]


def test_one_class_of_image_leaves_out_what_compares_two(files, tmp_path):
    small = {"size": 32, "train_images": 24, "val_images": 24, "test_images": 8, "batch_size": 5, "fine_fraction": 0.25}
    found = run(tmp_path / "out", OneClass(**small), weights=files[0], reference=files[1])
    assert found["sweep"] == {"unlearnt": [], "retrained": []}
    assert "sweep" in found["left out"]
    assert found["values"]["unlearnt"]["dice_lesion"] is not None


def test_flags_give_a_sweep_from_no_to_every_positive_with_artefact(files, tmp_path):
    found = run(tmp_path / "out", weights=files[0], reference=files[1])
    rates = [point[0] for point in found["sweep"]["unlearnt"]]
    assert rates == [round(step / 10, 1) for step in range(11)]
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 1000


def counts_of(path, source):
    """Pixels by artefact, truth and prediction over the validation images, image by image."""
    counts, network = torch.zeros(2, 3, 3, dtype=torch.long), network_of(path)
    for case in source.part("val"):
        arrays = source.pixels(case)
        with torch.inference_mode():
            prediction = network(torch.from_numpy(arrays.image)[None]).argmax(1)[0].numpy()
        cells = zip((arrays.artefact > 0).ravel(), arrays.mask.ravel(), prediction.ravel(), strict=True)
        for s, y, z in cells:
            counts[int(s), int(y), int(z)] += 1
    return counts


def test_two_ensembles_bound_epsilon_from_below(files, tmp_path):
    torch.manual_seed(9)
    paths = [*files, saved(tmp_path / "net3", Pixelwise())]
    found = run(tmp_path / "out", weights=paths[:2], reference=paths[2:])["ensembles"]
    one, other = (torch.stack([counts_of(path, data()) for path in side]) for side in (paths[:2], paths[2:]))
    expected = pixel_indistinguishability(one, other, delta=1e-7)
    assert (found["models"], found["references"]) == (2, 2)
    assert found["epsilon_at_least"] == pytest.approx(expected.epsilon, abs=1e-12)
    assert found["could_show_at_most"] == pytest.approx(expected.ceiling, abs=1e-12)
    assert run(tmp_path / "single", weights=files[0], reference=files[1])["ensembles"] is None


MECHANISM = OutputPerturbationMechanism.calibrated(0.05, 1e-9, reference="anchor", radius=0.1)


def certify(weights, released=None, **changes):
    """Write a certificate beside weights: for them, or for other released ones."""
    digest = state_digest(read_state(released or weights))
    names = ("released_file", "anchor_weights", "settings")
    arguments = {"why_not": None, "reproducible": False, "exposed": {"first.bias": [4]}, **changes}
    content = certificate(
        MECHANISM, Target(epsilon=0.05, delta=1e-9), Account(steps=1, blocks=MECHANISM.pieces()),
        digests={**dict.fromkeys(names, "0" * 64), "released_weights": digest, "split": None}, **arguments,
    )  # fmt: skip
    return save_certificate(content, weights.parent / "certificate.json")


def test_a_certificate_beside_the_weights_says_where_s_global_of_its_reference_lies(files, tmp_path):
    certify(files[0])
    found = run(tmp_path / "out", weights=files[0], reference=files[1])
    expected = certified_interval(counts_of(files[0], data()), 24, 0.05, 1e-9)
    assert found["certified S_global of the reference"] == pytest.approx(
        {"epsilon": 0.05, "delta": 1e-9, "low": expected.low, "high": expected.high}
    )
    assert expected.low < found["values"]["unlearnt"]["s_global"] < expected.high
    assert "certified S_global of the reference" not in found["left out"]


def test_a_certificate_of_other_weights_says_nothing_of_these(files, tmp_path, capsys):
    certify(files[0], released=files[2])
    found = run(tmp_path / "out", weights=files[0], reference=files[1])
    assert found["certified S_global of the reference"] is None
    assert "is for other weights than" in found["left out"]["certified S_global of the reference"]
    for shown in ((tmp_path / "out" / "measures.md").read_text(), " ".join(capsys.readouterr().out.split())):
        assert "certified S_global of the reference: left out, certificate field 'digests.released_weights'" in shown


def test_only_an_issued_certificate_that_verifies_is_believed(files):
    digest = state_digest(read_state(files[0]))
    assert claimed(files[0], digest) is None  # there is none
    path = certify(files[0])
    assert claimed(files[0], digest)["epsilon"] == 0.05
    edited = json.loads(path.read_text())
    edited["claim"]["epsilon"] = 0.01
    path.write_text(json.dumps(edited))
    with pytest.raises(VerificationError, match="the certificate was edited"):
        claimed(files[0], digest)
    for change in ({"why_not": "the power failed"}, {"reproducible": True}):
        certify(files[0], **change)
        with pytest.raises(VerificationError, match=r"nothing was certified|known seed"):
            claimed(files[0], digest)
    for text in (json.dumps({"claim": {"epsilon": 0.0, "delta": 0.0}}), "[]", "{"):
        path.write_text(text)
        with pytest.raises(VerificationError):
            claimed(files[0], digest)


def test_auroc_ranks_the_class_that_the_module_names(tmp_path):
    """Class 1 of 0..2, on the whole part and on the balanced one; a module that names none ranks the last."""
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        paths.append(saved(tmp_path / f"net{seed}", SegmentationModule(num_classes=3)))
    module = SegmentationModule(num_classes=3, positive_class=1)
    mine = run(tmp_path / "out", model=module, weights=paths[0], reference=paths[1])["values"]["unlearnt"]
    source = data()
    source.setup("fit")
    cases = source.part("val")
    network = restored(module, paths[0])
    with torch.inference_mode():
        images = torch.stack([torch.from_numpy(source.pixels(case).image) for case in cases])
        scores = network(images).softmax(1)[:, 1].flatten(1).mean(1).numpy()
    labels = torch.tensor([case.label == 1 for case in cases]).long()
    flags = torch.tensor([int(case.flags[source.flag]) for case in cases])
    chosen = balanced_subset(labels, flags)
    assert mine["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert mine["auroc_balanced"] == pytest.approx(roc_auc_score(labels[chosen], scores[chosen]), abs=1e-12)
    assert [ranked_class(m, 3) for m in (module, SegmentationModule(num_classes=3), Pixelwise())] == [1, 2, 2]


def test_the_sweep_shows_its_points_and_whose_they_are():
    points = {"unlearnt": [(0.0, 0.5), (1.0, 0.75)], "retrained": [(0.0, 0.625), (1.0, 0.625)]}
    (axis,) = sweep_figure(points, "SyntheticDermoscopy, val images").axes
    assert axis.get_title() == "SyntheticDermoscopy, val images"
    drawn = {line.get_label(): [tuple(point) for point in line.get_xydata()] for line in axis.get_lines()}
    assert drawn == points


def small_module():
    torch.manual_seed(3)
    return SegmentationModule(
        num_classes=3, optimizer=lambda parameters: torch.optim.Adam(parameters, 0.02), lr_scheduler=None, bootstrap=0
    )


def test_a_model_that_forgot_nothing_needs_no_step_and_a_fresh_one_does(tmp_path):
    source = data(train_images=12, fine_fraction=0.34)
    original = small_module()
    Trainer(
        accelerator="cpu", max_epochs=12, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        default_root_dir=tmp_path, limit_val_batches=0,
    ).fit(original, datamodule=source)  # fmt: skip
    with torch.no_grad():
        same = small_module()
        same.load_state_dict(original.state_dict())
        next(same.parameters()).add_(1e-6)
    torch.manual_seed(8)
    paths = [saved(tmp_path / name, module) for name, module in
             (("original", original), ("same", same), ("other", SegmentationModule(num_classes=3)))]  # fmt: skip
    values = run(
        tmp_path / "out", source, small_module(), weights=paths[1], reference=paths[2], original=paths[0],
        relearn_steps=100,
    )["values"]  # fmt: skip
    assert values["unlearnt"]["relearn_steps"] == 0
    assert values["unlearnt"]["anamnesis_index"] == 0
    assert values["retrained"]["relearn_steps"] > 0
    with pytest.raises(ValueError, match="give --original"):
        run(tmp_path / "none", source, weights=paths[1], reference=paths[2], relearn_steps=5)


def test_the_same_weights_twice_another_split_and_a_used_folder_are_refused(files, tmp_path):
    copy = saved(tmp_path / "copy", network_of(files[0]))
    with pytest.raises(ValueError, match="hold the same weights"):
        run(tmp_path / "out", weights=files[0], reference=copy)
    with pytest.raises(ValueError, match="hold the same weights"):
        run(tmp_path / "out", weights=files[0], reference=files[0])
    other = data(split_seed=5)
    other.setup("fit")
    assert isinstance(other.split, ForgetSplit)
    other.split.save(files[1].parent / "split.json")
    with pytest.raises(ValueError, match="another split than the data's"):
        run(tmp_path / "out", weights=files[0], reference=files[1])
    run(tmp_path / "out", weights=files[0], reference=files[2])
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        run(tmp_path / "out", weights=files[0], reference=files[2])


def test_the_command_as_people_give_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        paths.append(saved(tmp_path / f"net{seed}", SegmentationModule(num_classes=3)))
    main([
        "measure", "--data=SyntheticDermoscopy", "--data.size=32", "--data.train_images=20", "--data.val_images=12",
        "--data.test_images=8", "--model=SegmentationModule", "--model.num_classes=3", f"--weights={paths[0]}",
        f"--reference=[{paths[1]}, {paths[2]}]", "--bootstrap=10", "--accelerator=cpu",
    ])  # fmt: skip
    assert (tmp_path / "runs" / "measure-0" / "measures.json").exists()
    shown = capsys.readouterr().out
    assert "retrained again" in shown
    assert "S_global [nats]" in shown


def test_windows_of_an_image_give_their_mean_to_the_probe(tmp_path):
    """A sliding window passes several times: each image has the mean over its own windows."""
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        paths.append(saved(tmp_path / f"net{seed}", SegmentationModule(num_classes=3)))
    module = SegmentationModule(num_classes=3, patch_size=(16, 16))
    source = data(train_images=8, val_images=12)
    values = run(tmp_path / "out", source, module, weights=paths[0], reference=paths[1])["values"]
    network = restored(module, paths[0])
    layer = find_bottleneck(network, image_shape=(3, 32, 32)).name
    probe = LinearProbe()
    for item in source.dataset("val"):
        starts = [(i, j) for i in (0, 12, 16) for j in (0, 12, 16)]  # a quarter overlaps
        windows = torch.stack([item["image"][:, i : i + 16, j : j + 16] for i, j in starts])
        with torch.inference_mode(), pooled_features(network.network, layer.removeprefix("network.")) as features:
            network.network(windows)
        probe.update(features[0].mean(0, keepdim=True), item["flag"][None])
    assert values["unlearnt"]["probe_auroc"] == pytest.approx(float(probe.compute()), abs=1e-9)


def test_patients_share_no_half_of_the_probe_and_are_resampled_as_wholes(files, tmp_path):
    class Patients(SyntheticDermoscopy):
        def cases(self):
            return [replace(case, group=f"{case.part}-{int(case.id[-5:]) // 3}") for case in super().cases()]

    patients = Patients(size=32, train_images=24, val_images=24, test_images=8, batch_size=5, fine_fraction=0.25)
    alone, together = (
        run(tmp_path / name, source, weights=files[0], reference=files[1])["values"]["unlearnt"]
        for name, source in (("alone", data()), ("together", patients))
    )
    same = ("s_global", "membership_auc", "membership_tpr")
    assert [alone[name] for name in same] == [together[name] for name in same]
    for name in ("probe_auroc", "s_global_high", "membership_auc_low", "membership_tpr_high"):
        assert alone[name] != together[name]
