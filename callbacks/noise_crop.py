"""Noise crop: the network sees the lesion alone, enlarged, in noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..debiasing import crop_to, lesion_box, put_back, replace_background
from .bases.debiased_input import DebiasedInput, Forward
from .batches.entries import Key


class NoiseCrop(DebiasedInput):
    """Replace what surrounds the lesion by noise, cut the lesion out, and enlarge it to the size of the image.

    At test time only. A segmentation network sees the image twice: as it is, which gives the lesion, and cropped, which
    gives the output; its logits are put back to where the crop was, with certain background around, so that Dice and
    pixel metrics keep their meaning. Logits ``[B, K]`` of a classifier are left as they are. The crop keeps the
    proportions of the image. An image without predicted lesion is neither cropped nor changed.

    Noise is uniform over [0, 1], the range of our images: one field by seed for all images, so that results depend
    neither on batches nor on the number of processes. Published code of the method is not known to us; margin and
    proportions are our choice.

    Args:
        mask_key: see :class:`~erode.callbacks.bases.debiased_input.DebiasedInput`.
        segmenter: see there.
        margin: added around the lesion on each side, as a fraction of its box.
        seed: of the noise.

    Raises:
        ValueError: for a negative margin, or masks from two places.
        MisconfigurationException: see :class:`~erode.callbacks.bases.debiased_input.DebiasedInput`.

    Source: Bissoto et al. 2022, Artifact-based Domain Generalization of Skin Lesion Models (NoiseCrop).

    Example:
        >>> NoiseCrop(margin=0.1).mask_key is None
        True
    """

    def __init__(
        self, mask_key: Key | None = None, segmenter: nn.Module | None = None, margin: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__(mask_key, segmenter)
        if margin < 0:
            raise ValueError(f"margin is a fraction of the lesion's box, at least 0; got {margin}")
        self.margin = margin
        self.seed = seed

    def debiased(self, forward: Forward, image: Tensor, foreground: Tensor) -> Tensor:
        """Output for the crop, put back in place where it is a map."""
        # On the CPU, so that every device sees the same noise.
        noise = torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        boxes = [lesion_box(mask, self.margin) for mask in foreground]
        output = forward(crop_to(replace_background(image, foreground, noise.to(image)), boxes))
        return put_back(output, boxes) if output.ndim == image.ndim else output
