"""``erode audit``: membership inference on the forget atoms of any two checkpoints (theory §8, §9)."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ._version import __version__
from .audit_report import LEVELS, print_attacks, roc_figure
from .batch import Role
from .datamodules import MaskDataModule
from .datamodules.case import Case
from .files import fresh_folder, write_json
from .masks import ForgetSplit, View, ring, serve
from .metrics import Attack, MembershipInference
from .pictures import save_figure
from .weights import load_weights, weights_digest

ATTACKS = {
    "loss": "loss, weights",
    "loss_reference": "loss, reference",
    "ratio": "likelihood ratio",
}
"""Attacks and their titles: two loss thresholds, and the likelihood ratio."""

STRATA = {"forget": "all forget atoms", "ring": "ring only"}
"""Which atoms are attacked, and their titles."""

Metrics = dict[str, dict[str, MembershipInference]]
"""One metric per stratum and attack."""


def audit(
    data: MaskDataModule,
    model: LightningModule,
    weights: Path,
    reference: Path,
    out: Path | None = None,
    held_out: Literal["val", "test"] = "val",
    fpr: float = 0.01,
    bootstrap: int = 1000,
    seed: int = 0,
    accelerator: str = "auto",
) -> Path:
    """Attack two checkpoints: does the coarse label's likelihood tell forget atoms from atoms never trained on?

    Members are the forget atoms of the coarsely annotated training images (theory §1), non-members the same kind of
    atoms of held-out images, as many of each class in proportion, none augmented. A failed attack proves nothing; a
    certificate does. Writes ``audit.json`` and ROC pictures, and prints a table.

    Args:
        data: with the forget/retain split that the weights were trained on.
        model: the network of both checkpoints; its forward pass gives logits.
        weights: the model under audit, such as the unlearned one.
        reference: the model to compare with, such as the original, or one retrained without the forget set.
        out: a new folder; None = ``runs/audit-N``.
        held_out: the part with the non-members; keep ``test`` for the last word.
        fpr: false positive rate at which the true positive rate is read.
        bootstrap: resamples of images for the intervals.
        seed: of resamples, and of the choice of held-out images where a class has too many.
        accelerator: see Lightning's Trainer.

    Returns:
        Path of ``audit.json``.

    Raises:
        ValueError: if the checkpoints are the same, belong to another split or network, or the two sides cannot be
            compared.
        FileExistsError: if ``out`` holds an audit.

    Source:
        Loss threshold: Yeom et al. 2018. Likelihood ratio: Carlini et al. 2022 (LiRA), with the one reference model
        as in Watson et al. 2022.
    """
    if out is not None and (out / "audit.json").exists():
        raise FileExistsError(f"{out} holds an audit, and nothing is overwritten; give another out, or leave it out")
    attacked, compared = _restored(model, weights), _restored(model, reference)
    digests = {"weights": weights_digest(attacked), "reference": weights_digest(compared)}
    if digests["weights"] == digests["reference"]:
        raise ValueError(f"{weights} and {reference} hold the same weights, so nothing can differ; give two models")
    data.prepare_data()
    data.setup("fit")
    checked = [name for name, path in (("weights", weights), ("reference", reference)) if _same_split(data, path)]
    members, others = comparable_cases(data, held_out, seed)
    metrics = {
        stratum: {attack: MembershipInference(fpr=fpr, bootstrap=bootstrap, seed=seed) for attack in ATTACKS}
        for stratum in STRATA
    }
    device = Fabric(accelerator=accelerator, devices=1).device
    _attack(data, members, others, (attacked.to(device), compared.to(device)), device, metrics)
    metrics = {stratum: parts for stratum, parts in metrics.items() if _has_both_sides(parts["loss"])}
    if "forget" not in metrics:
        raise ValueError(f"the coarse masks of the training images or of {held_out} are empty; there are no atoms")
    content = {
        "weights": {"path": str(weights), "digest": digests["weights"]},
        "reference": {"path": str(reference), "digest": digests["reference"]},
        "split": {"digest": data.split.digest, "found beside": checked},
        "held_out": held_out,
        "images": {"members": _by_class(data, members), "non_members": _by_class(data, others)},
        "settings": {"fpr": fpr, "bootstrap": bootstrap, "confidence": 0.95, "seed": seed},
        "strata": {stratum: _strata_content(parts) for stratum, parts in metrics.items()},
        "software": {"erode": __version__, "torch": torch.__version__},
    }
    folder = fresh_folder("runs", "audit") if out is None else out
    _draw(metrics, fpr, folder)
    print_attacks(content, STRATA, ATTACKS)
    for name in sorted({"weights", "reference"} - {*checked}):
        print(f"no split.json beside the {name}: make sure that they were trained on this split")
    return write_json(folder / "audit.json", content)


def comparable_cases(
    data: MaskDataModule, held_out: Literal["val", "test"], seed: int
) -> tuple[list[Case], list[Case]]:
    """Images with forget atoms, and held-out images with the same shares of classes.

    Args:
        data: the data.
        held_out: part with the non-members.
        seed: of the draw, where a class has more held-out images than its share.

    Returns:
        Members without the classes that no held-out image has; non-members.

    Raises:
        ValueError: if no class is on both sides, or some coarse masks are drawn and others derived.
    """
    coarse = set(data.split.coarse)
    members = [case for case in data.part("train") if case.id in coarse]
    others = data.part(held_out)
    wanted, there = (Counter(case.label for case in side) for side in (members, others))
    shared = sorted(wanted.keys() & there.keys() - {0})
    if not shared:
        raise ValueError(
            f"no foreground class has both coarsely annotated training images and images in {held_out}; "
            "use the other part, or another split"
        )
    drawn = {"coarse" in case.paths for case in (*members, *others)}
    if len(drawn) > 1:
        raise ValueError(
            f"some coarse masks of the training images and of {held_out} are files, others come from the data's "
            "coarsening, so atoms differ in kind; give every image a coarse mask, or none"
        )
    scale = min(there[label] / wanted[label] for label in shared)
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen: set[str] = set()
    for label in shared:
        names = sorted(case.id for case in others if case.label == label)
        count = min(len(names), max(1, round(scale * wanted[label])))
        chosen |= {names[index] for index in generator.permutation(len(names))[:count]}
    return [case for case in members if case.label in shared], [case for case in others if case.id in chosen]


class ForgetAtoms(Dataset[dict[str, Any]]):
    """Images with their forget atoms, all treated as coarsely annotated (theory §1).

    Args:
        cases: members, then non-members.
        members: how many are members.
        data: reads and coarsens them.
    """

    def __init__(self, cases: Sequence[Case], members: int, data: MaskDataModule) -> None:
        self._cases, self._members = cases, members
        self._read, self._coarsening = data.read, data.coarsening
        numbers = {group: number for number, group in enumerate(dict.fromkeys(_group(case) for case in cases))}
        self._clusters = [numbers[_group(case)] for case in cases]

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self._cases[index]
        arrays = self._read(case)
        fine, coarse = arrays.mask, arrays.coarse
        if coarse is None:
            assert fine is not None  # validated by the DataModule
            coarse = self._coarsening(fine)
        served = serve(View.COARSE, fine, coarse, case.label, is_fine=False)
        around = np.zeros(coarse.shape, np.bool_) if fine is None else ring(fine, coarse)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(arrays.image)),
            "mask": torch.from_numpy(served.mask),
            "forget": torch.from_numpy(served.role == Role.FORGET),
            "ring": torch.from_numpy(around),
            "member": torch.tensor(index < self._members),
            "index": torch.tensor(index),
            "label": torch.tensor(case.label),
            "cluster": torch.tensor(self._clusters[index]),
        }


def log_likelihood(network: nn.Module, image: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each pixel's label: minus its cross-entropy.

    Args:
        network: maps images ``[B, C, *spatial]`` to logits ``[B, K, *spatial]``.
        image: on the network's device.
        mask: labels ``[B, *spatial]``.

    Returns:
        float64 ``[B, *spatial]`` in nats, on the CPU.

    Raises:
        ValueError: for logits of another shape, or too few classes.

    Example:
        >>> log_likelihood(nn.Identity(), torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, dtype=torch.long)).item()
        -0.6931471805599453
    """
    with torch.inference_mode():
        logits = network(image)
        expected = (len(image), *image.shape[2:])
        if logits.ndim != image.ndim or (len(logits), *logits.shape[2:]) != expected or logits.shape[1] <= mask.max():
            raise ValueError(
                f"the model gives {list(logits.shape)} for images {list(image.shape)} with labels up to "
                f"{int(mask.max())}; its forward pass must give one logit per pixel and class, background included"
            )
        # Single precision rounds the likelihoods of confident predictions to the same value, and an attack needs them.
        likelihood: Tensor = logits.cpu().double().log_softmax(1).gather(1, mask.cpu()[:, None])[:, 0]
        return likelihood


def _attack(
    data: MaskDataModule,
    members: list[Case],
    others: list[Case],
    networks: tuple[nn.Module, nn.Module],
    device: torch.device,
    metrics: Metrics,
) -> None:
    atoms = ForgetAtoms([*members, *others], len(members), data)
    for batch in DataLoader(atoms, batch_size=data.batch_size, num_workers=data.num_workers):
        image = batch["image"].to(device)
        own, other = (log_likelihood(network, image, batch["mask"]) for network in networks)
        for name, scores in (("loss", own), ("loss_reference", other), ("ratio", own - other)):
            for stratum, parts in metrics.items():
                parts[name].update(
                    scores,
                    batch[stratum],
                    member=batch["member"],
                    image=batch["index"],
                    stratum=batch["label"],
                    cluster=batch["cluster"],
                )


def _draw(metrics: Metrics, fpr: float, folder: Path) -> None:
    for stratum, parts in metrics.items():
        curves = {level: {ATTACKS[name]: metric.curve(level) for name, metric in parts.items()} for level in LEVELS}
        name = "roc.png" if stratum == "forget" else f"roc_{stratum}.png"
        save_figure(roc_figure(curves, STRATA[stratum], fpr), folder / name)


def _restored(model: LightningModule, path: Path) -> LightningModule:
    restored = copy.deepcopy(model)
    load_weights(restored, path)
    return restored.eval()


def _same_split(data: MaskDataModule, weights: Path) -> bool:
    """Whether a split stands beside the weights; refuses one that is not the data's."""
    path = weights.parent / "split.json"
    if not path.exists():
        return False
    if ForgetSplit.load(path).digest != data.split.digest:
        raise ValueError(
            f"{path} is another split than the data's, so members would not be what {weights} was trained on; "
            f"give --data.split_file={path}"
        )
    return True


def _has_both_sides(metric: MembershipInference) -> bool:
    return not bool(metric.compute()["auc_atom"].isnan())


def _by_class(data: MaskDataModule, cases: Sequence[Case]) -> dict[str, int]:
    count = Counter(case.label for case in cases)
    return {data.class_names[label]: count[label] for label in sorted(count)}


def _strata_content(parts: Mapping[str, MembershipInference]) -> dict[str, Any]:
    """Attacks of one stratum, and by how much the loss attack does better on weights than on reference."""
    results = {name: metric.result() for name, metric in parts.items()}
    content: dict[str, Any] = {
        "images": list(results["loss"].images),
        "attacks": {
            name: {"atom": _content(result.atom), "image": _content(result.image)} for name, result in results.items()
        },
    }
    own, other = results["loss"], results["loss_reference"]
    content["auc_difference"] = {
        "atom": _difference(own.atom, other.atom),
        "image": _difference(own.image, other.image),
    }
    return content


def _content(attack: Attack) -> dict[str, Any]:
    plain = {name: value for name, value in vars(attack).items() if name != "replicates"}
    return {**plain, "chance_lies_inside": attack.chance_lies_inside}


def _difference(own: Attack, other: Attack) -> dict[str, Any]:
    value, interval = own.minus(other)
    return {"value": value, "interval": list(interval)}


def _group(case: Case) -> str:
    return case.group or f"image {case.id}"
