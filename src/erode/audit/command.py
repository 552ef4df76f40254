"""``erode audit``: membership inference on the forget atoms of any two checkpoints (theory §8, §9)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from .._version import __version__
from ..datamodules import MaskDataModule
from ..datamodules.case import Case
from ..files import fresh_folder, write_json, write_text
from ..metrics import Attack, MembershipInference
from ..pictures import save_figure
from ..weights import weights_digest
from .forget_atoms import ForgetAtoms, comparable_cases, log_likelihood
from .report import LEVELS, attack_lines, attacks_markdown, print_attacks, roc_figure
from .subjects import restored, same_split

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
    certificate does. Writes ``audit.json``, its table (``audit.md``) and ROC pictures, and prints the table.

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
    attacked, compared = restored(model, weights), restored(model, reference)
    digests = {"weights": weights_digest(attacked), "reference": weights_digest(compared)}
    if digests["weights"] == digests["reference"]:
        raise ValueError(f"{weights} and {reference} hold the same weights, so nothing can differ; give two models")
    data.prepare_data()
    data.setup("fit")
    checked = [name for name, path in (("weights", weights), ("reference", reference)) if same_split(data, path)]
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
    path = write_json(folder / "audit.json", content)
    lines, remarks = attack_lines(content, STRATA, ATTACKS), _remarks(content, len(others))
    print_attacks(lines, content)
    for remark in remarks:
        print(remark)
    write_text(folder / "audit.md", attacks_markdown(lines, content, remarks) + "\n")
    return path


def _remarks(content: Mapping[str, Any], others: int) -> list[str]:
    """What a reader has to know beside the numbers."""
    fpr, held_out = content["settings"]["fpr"], content["held_out"]
    few = (
        f"only {others} images of {held_out} to compare with: fewer than {math.ceil(1 / fpr)} cannot tell a false "
        f"positive rate of {fpr:g} from none, so rely on the AUC, or audit with more held-out images"
    )
    unknown = sorted({"weights", "reference"} - {*content["split"]["found beside"]})
    return [
        *([few] if others * fpr < 1 else []),
        *(f"no split.json beside the {name}: make sure that they were trained on this split" for name in unknown),
    ]


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
