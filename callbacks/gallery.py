"""The same few validation images before and after the run, as a picture and as overlays in loggers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from ..batch import UNKNOWN_ARTEFACT
from ..lightning_state import run_folder
from ..pictures import Sample, display_image, flatten_volume, gallery_figure, rgb_array, save_figure
from .batches.entries import Key, class_map, entry
from .batches.prediction import Weights, initial_weights, predict

FINE, COARSE, BEFORE, AFTER = "fine mask", "coarse mask", "before", "after"


class PredictionGallery(Callback):
    """Show a few validation images: artefacts, coarse and fine mask, prediction before and after the run.

    *Before* are the weights the module held when the run was set up, before an operator touched them; *after*
    those it ends with. The images are the first ones of the validation set that show an artefact, filled up
    with the first that show none: the same ones in every run over the same data (in distributed runs: among
    those of process 0). Of volumes, the slice with the largest fine mask is drawn. Sharded strategies are not
    supported.

    Leaves ``gallery.png`` in the folder of the run, adds overlays that can be switched to Weights & Biases,
    and the picture to TensorBoard, where these loggers are used.

    Args:
        num_images: number of rows.
        class_names: names of the classes, background first; None = ``class_names`` of the module, or numbers.
        image_key: where a validation batch keeps images ``[B, C, *spatial]``: a key, or a position in a
            tuple.
        fine_key: where it keeps fine masks, integer ``[B, *spatial]`` or ``[B, 1, *spatial]``.
        coarse_key: where it keeps coarse masks, shaped alike; None = there are none.
        artefact_key: where it keeps artefact maps, shaped alike, 0 = none; None = there are none.

    Raises:
        ValueError: if no image is asked for.
        MisconfigurationException: at the first validation batch, naming the entry that is missing.

    Example:
        >>> PredictionGallery(image_key=0, fine_key=1, coarse_key=None, artefact_key=None).num_images
        6
    """

    def __init__(
        self,
        num_images: int = 6,
        class_names: Sequence[str] | None = None,
        image_key: Key = "image",
        fine_key: Key = "mask",
        coarse_key: Key | None = "coarse",
        artefact_key: Key | None = "artefact",
    ) -> None:
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}; leave the callback out instead")
        self.num_images = num_images
        self.class_names = None if class_names is None else list(class_names)
        self.image_key = image_key
        self.fine_key = fine_key
        self.coarse_key = coarse_key
        self.artefact_key = artefact_key
        self._original: Weights = {}
        self._with_artefact: list[dict[str, Tensor]] = []
        self._without: list[dict[str, Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the original weights; operators change them only later."""
        if stage == "fit":
            self._original = initial_weights(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose anew: the sanity check may have seen only a few images."""
        self._with_artefact, self._without = [], []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images with and without artefacts of the first validation loader."""
        if dataloader_idx > 0 or len(self._with_artefact) == self.num_images:
            return
        image = entry(batch, self.image_key, "image_key")
        found = {"image": image, FINE: class_map(entry(batch, self.fine_key, "fine_key"), image)}
        if self.coarse_key is not None:
            coarse = entry(batch, self.coarse_key, "coarse_key (None = no coarse masks)")
            found[COARSE] = class_map(coarse, image)
        if self.artefact_key is not None:
            artefact = entry(batch, self.artefact_key, "artefact_key (None = no artefact maps)")
            found["artefact"] = class_map(artefact, image)
        for i in range(len(image)):
            kept = self._with_artefact if _shows_artefact(found, i) else self._without
            if len(kept) < self.num_images:
                kept.append({name: tensor[i].to("cpu", copy=True) for name, tensor in found.items()})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predict, draw and log."""
        folder = run_folder(trainer)
        chosen = [*self._with_artefact, *self._without][: self.num_images]
        if not chosen:
            rank_zero_warn("no validation ran, so PredictionGallery saw no images; give fit a validation loader")
            return
        samples = self._predict(trainer, pl_module, chosen)
        self._original = {}
        if not trainer.is_global_zero:
            return
        names = self._names(pl_module, samples)
        figure = gallery_figure(samples, names)
        save_figure(figure, folder / "gallery.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                _log_overlays(logger, samples, names)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("gallery", rgb_array(figure), trainer.global_step, dataformats="HWC")

    def _predict(self, trainer: Trainer, module: LightningModule, chosen: list[dict[str, Tensor]]) -> list[Sample]:
        """Predict on the device of the run, from which Lightning has already taken the module."""
        home, device = module.device, trainer.strategy.root_device
        module.to(device)
        samples = []
        for item in chosen:
            image = item["image"][None].to(device)
            masks = {title: item[title] for title in (COARSE, FINE) if title in item}
            masks |= {BEFORE: predict(trainer, module, image, self._original)[0]}
            masks |= {AFTER: predict(trainer, module, image)[0]}
            samples.append(
                Sample(
                    image=item["image"].float().numpy(),
                    masks={title: mask.cpu().numpy() for title, mask in masks.items()},
                    reference=FINE,
                    artefact=item["artefact"].numpy() if "artefact" in item else None,
                )
            )
        module.to(home)
        return samples

    def _names(self, module: LightningModule, samples: Sequence[Sample]) -> list[str]:
        names = self.class_names or getattr(module, "class_names", None)
        if names is not None:
            return list(names)
        classes = 1 + max(int(mask.max()) for sample in samples for mask in sample.masks.values())
        return ["background", *(f"class {k}" for k in range(1, max(2, classes)))]


def _shows_artefact(found: dict[str, Tensor], i: int) -> bool:
    if "artefact" not in found:
        return False
    artefact = found["artefact"][i]
    return bool(((artefact > 0) & (artefact != UNKNOWN_ARTEFACT)).any())


def _log_overlays(logger: WandbLogger, samples: Sequence[Sample], names: Sequence[str]) -> None:
    """One image each, with masks that people can switch on and off in the browser."""
    labels = dict(enumerate(names))
    flat = [flatten_volume(sample) for sample in samples]
    images = [_bytes(display_image(sample.image)) for sample in flat]
    masks = [
        {title: {"mask_data": mask.astype(np.uint8), "class_labels": labels} for title, mask in sample.masks.items()}
        for sample in flat
    ]
    logger.log_image("gallery", images, masks=masks)


def _bytes(picture: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (picture * 255).round().astype(np.uint8)
