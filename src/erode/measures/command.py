"""``erode measure``: a model that unlearnt, beside the original and models retrained without the forget set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule, seed_everything
from torch import Tensor, nn

from .._version import __version__
from ..audit.forget_atoms import loss_attack
from ..audit.subjects import restored, same_split
from ..callbacks.guards.reset import reset_parameters
from ..certificates import VerificationError
from ..datamodules import MaskDataModule
from ..files import fresh_folder, write_json, write_text
from ..metrics import SliceCounts, layer_distances, pixel_indistinguishability
from ..pictures import save_figure
from ..rows import number
from ..weights import weights_digest
from .certified import claimed, reference_interval
from .forget_set import fine_set_values, forget_set_values
from .held_out import look
from .relearning import relearn_values
from .table import markdown, print_measures, sweep_figure
from .values import Subject, Values

Paths = Path | list[Path]

NORMS = ("moved", "retrained", "remaining", "ratio")
"""Of a layer's row: what may be undefined."""

CERTIFIED = "certified S_global of the reference"


def measure(
    data: MaskDataModule,
    model: LightningModule,
    weights: Paths,
    reference: Paths,
    original: Path | None = None,
    out: Path | None = None,
    held_out: Literal["val", "test"] = "val",
    relearn_steps: int = 0,
    delta: float = 1e-7,
    bootstrap: int = 1000,
    seed: int = 0,
    accelerator: str = "auto",
) -> Path:
    """Measure what a model forgot and what it leans on, beside models retrained without the forget set.

    On the forget set: original labels still given, distance of probabilities from the retrained model, completeness,
    membership inference, ZRF, and with ``relearn_steps`` the anamnesis index. On fine training images and on held-out
    ones: Dice, leakage, S_global, AUROC on whole, balanced and inverted sets and over other rates of the artefact,
    groups, rings, and a linear probe of the bottleneck. A second reference, retrained on the same split with another
    seed, shows what chance alone leaves: without it a distance has no scale. With two or more weights and references,
    independent runs all, the smallest ε that they allow. A ``certificate.json`` beside the weights that holds and is
    theirs says where S_global of its reference lies. Writes ``measures.json``, ``measures.md`` and, where artefact
    flags are known, ``sweep.png``; prints the table, and why a certificate, balanced sets or the sweep were left out.

    Args:
        data: with the forget/retain split that all were trained on.
        model: the network of all files; its forward pass gives logits.
        weights: the model that unlearnt; of several the first is measured, and all are counted as an ensemble.
        reference: retrained without the forget set; of several the second is measured too.
        original: the model before unlearning.
        out: a new folder; None = ``runs/measure-N``.
        held_out: the part that trained nothing; keep ``test`` for the last word.
        relearn_steps: training steps in which the forget set may be learnt again; 0 = not tried. Needs ``original``,
            and a module that logs ``val/dice_lesion``, as ours do.
        delta: δ at which two ensembles are compared.
        bootstrap: resamples of images for intervals.
        seed: of resamples, of the fresh network and of relearning.
        accelerator: see Lightning's Trainer.

    Returns:
        Path of ``measures.json``.

    Raises:
        ValueError: for the same weights twice, another split or network, or relearning without the original.
        FileExistsError: if ``out`` holds measures.

    Source:
        theory §8.
    """
    if out is not None and (out / "measures.json").exists():
        raise FileExistsError(f"{out} holds measures, and nothing is overwritten; give another out, or leave it out")
    if relearn_steps < 0:
        raise ValueError(f"relearn_steps counts training steps, 0 = not tried; got {relearn_steps}")
    if relearn_steps and original is None:
        raise ValueError("the forget set counts as known again near the original's Dice on it: give --original")
    unlearnt, references = _paths(weights), _paths(reference)
    named = {"original": original, "unlearnt": unlearnt[0], "retrained": references[0]}
    named |= {"retrained again": references[1]} if len(references) > 1 else {}
    chosen = {name: path for name, path in named.items() if path is not None}
    data.prepare_data()
    data.setup("fit")
    device = Fabric(accelerator=accelerator, devices=1).device
    paths = [*([] if original is None else [original]), *unlearnt, *references]
    everyone = {path: restored(model, path).to(device) for path in dict.fromkeys(paths)}
    digests = {path: weights_digest(network) for path, network in everyone.items()}
    _refuse_twins(paths, digests)
    checked = [name for name, path in chosen.items() if same_split(data, path)]
    subjects = [Subject(name, everyone[path]) for name, path in chosen.items()]
    retrained = next(subject for subject in subjects if subject.name == "retrained")
    fresh = _fresh(model, seed).to(device)

    values: dict[str, Values] = {subject.name: {} for subject in subjects}
    for found in (
        forget_set_values(data, subjects, retrained, fresh, device),
        fine_set_values(data, subjects, device),
        {subject.name: _membership(data, subject, seed, bootstrap) for subject in subjects},
    ):
        _join(values, found)
    views = look(data, held_out, subjects, retrained, device, bootstrap)
    _join(values, {view.subject.name: view.compute() for view in views})
    counted = {chosen[view.subject.name]: view.slices.compute()["counts"] for view in views}

    def table(path: Path) -> Tensor:
        return counted[path] if path in counted else _slices(data, held_out, everyone[path], device)

    layers = _layers(subjects)
    if layers:
        values["unlearnt"]["weights_ratio"] = layers[-1]["ratio"]
    folder = fresh_folder("runs", "measure") if out is None else out
    if relearn_steps:
        _join(values, relearn_values(data, subjects, fresh, relearn_steps, folder, accelerator, seed))
    sweeps = {view.subject.name: view.sweep() for view in views}
    measured = next(view for view in views if view.subject.name == "unlearnt")
    certified, why_not = _certified(unlearnt[0], digests[unlearnt[0]], measured.slices)
    left_out = measured.left_out | ({} if why_not is None else {CERTIFIED: why_not})
    content = {
        "models": {name: {"path": str(path), "digest": digests[path]} for name, path in chosen.items()},
        "split": {"digest": data.split.digest, "found beside": checked},
        "held_out": held_out,
        "values": {name: {key: number(value) for key, value in found.items()} for name, found in values.items()},
        "sweep": sweeps,
        "layers": [{**layer, **{key: number(layer[key]) for key in NORMS}} for layer in layers],
        CERTIFIED: certified,
        "ensembles": _ensembles(unlearnt, references, table, delta),
        "left out": left_out,
        "settings": {"bootstrap": bootstrap, "seed": seed, "relearn_steps": relearn_steps, "delta": delta},
        "software": {"erode": __version__, "torch": torch.__version__},
    }
    path = write_json(folder / "measures.json", content)
    if all(sweeps.values()):
        title = f"{type(data).__name__}, {held_out} images"
        save_figure(sweep_figure(sweeps, title), folder / "sweep.png")
    write_text(folder / "measures.md", markdown(values, left_out) + "\n")
    print_measures(values, left_out)
    for name in sorted(chosen.keys() - {*checked}):
        print(f"no split.json beside the weights of {name}: make sure that they were trained on this split")
    return path


def _paths(given: Paths) -> list[Path]:
    paths = given if isinstance(given, list) else [given]
    if not paths:
        raise ValueError("give at least one file of weights and one reference")
    return paths


def _refuse_twins(paths: Sequence[Path], digests: dict[Path, str]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        digest = digests[path]
        if digest in seen:
            raise ValueError(
                f"{seen[digest]} and {path} hold the same weights, so nothing can differ; give different models"
            )
        seen[digest] = path


def _fresh(model: LightningModule, seed: int) -> LightningModule:
    """An untrained network, the same for each seed."""
    fresh = copy.deepcopy(model)
    seed_everything(seed, verbose=False)
    reset_parameters(fresh)
    return fresh.eval()


def _join(values: dict[str, Values], found: dict[str, Values]) -> None:
    for name, more in found.items():
        values[name] |= more


def _membership(data: MaskDataModule, subject: Subject, seed: int, bootstrap: int) -> Values:
    attack = loss_attack(data, subject.network, seed, bootstrap)
    if attack is None:
        return {}
    values: Values = {}
    for name, value, interval in (
        ("membership_auc", attack.auc, attack.auc_interval),
        ("membership_tpr", attack.tpr, attack.tpr_interval),
    ):
        values |= {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}
    return values


def _layers(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """How far each layer moved, the whole network last; nothing without the original."""
    states = {subject.name: subject.network.state_dict() for subject in subjects}
    if "original" not in states:
        return []
    rows = layer_distances(states["original"], states["unlearnt"], states["retrained"])
    return [{**vars(row), "ratio": row.ratio} for row in rows]


def _certified(weights: Path, digest: str, counts: SliceCounts) -> tuple[dict[str, float] | None, str | None]:
    """What a certificate beside the weights says of S_global of its reference, or why it says nothing, or neither."""
    try:
        claim = claimed(weights, digest)
    except VerificationError as error:
        return None, str(error)
    if claim is None:
        return None, None
    found = reference_interval(claim, counts)
    return found, "no image has an artefact mask" if found is None else None


def _ensembles(
    unlearnt: Sequence[Path], references: Sequence[Path], table: Callable[[Path], Tensor], delta: float
) -> dict[str, Any] | None:
    """The smallest ε that two ensembles of runs allow; None for single runs, and without artefact masks."""
    if min(len(unlearnt), len(references)) < 2:
        return None
    tables = [[table(path) for path in side] for side in (unlearnt, references)]
    if not int(tables[0][0].sum()):
        return None
    found = pixel_indistinguishability(torch.stack(tables[0]), torch.stack(tables[1]), delta)
    sizes = {"models": len(unlearnt), "references": len(references)}
    event = {
        "artefact": found.artefact, "true class": found.true_class, "called": found.called,
        "at least this share": found.threshold, "fired": list(found.rates), "of": list(found.models),
    }  # fmt: skip
    return {
        **sizes,
        "epsilon_at_least": number(found.epsilon),
        "could_show_at_most": number(found.ceiling),
        "event": event,
    }


def _slices(data: MaskDataModule, part: Literal["val", "test"], network: nn.Module, device: torch.device) -> Tensor:
    counts = SliceCounts(data.num_classes)
    for batch in data.val_dataloader() if part == "val" else data.test_dataloader():
        with torch.inference_mode():
            prediction = network(batch["image"].to(device)).argmax(1).cpu()
        counts.update(prediction, batch["mask"], batch["artefact"], counted=batch["counted"])
    return counts.compute()["counts"]
