"""``erode anchor``: make_anchor with a network that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..lightning_modules import SegmentationModule
from ..requests.anchor import make_anchor


def anchor(
    pretrained: Path,
    out: Path,
    model: Callable[[], SegmentationModule] | None = None,
    head: list[str] | None = None,
    seed: int = 0,
) -> Path:
    """Make an anchor of pretrained weights: all but the head, in a fresh segmentation module.

    Args:
        pretrained: weights of a network of the same kind, e.g. of a RestorationModule, with their ledger.
        out: file to write, such as anchors/mine/anchor.safetensors.
        model: the segmentation module, as in --config configs/model/unet.yaml; None = the default.
        head: shell patterns of the tensors that stay fresh; None = those of another shape.
        seed: of the fresh head.
    """
    return make_anchor(pretrained, out, model or SegmentationModule, head, seed)
