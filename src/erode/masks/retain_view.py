"""Which label of which pixel is served, and in which role (theory §1, §2)."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..batch import NO_PRIOR, Role
from .coarsen import Mask, Spacing, image_class
from .position import PositionPrior
from .ring import ring


class View(StrEnum):
    """Which labels a model may see. F are the images with fine masks, C those with coarse masks only."""

    COARSE = "coarse"
    """The original training: coarse masks everywhere. FORGET marks the atoms that unlearning takes back:
    every coarse-foreground pixel of C, and the ring of F, which its fine mask calls background. The rest is
    RETAIN."""
    FINE = "fine"
    """The ideal: fine masks everywhere. FORGET marks the inside of the coarse masks of C, about which D_r says nothing
    but the class of the image: no operator trains on it. The rest is RETAIN."""
    FINE_SUBSET = "fine_subset"
    """Fine masks of F, all RETAIN; C is not served."""
    RETAIN = "retain"
    """All that D_r holds: fine masks of F; of C the background outside the coarse region and, inside it,
    where pixels are UNLABELLED, the class of the image and the position prior."""

    @classmethod
    def _missing_(cls, value: object) -> View:
        raise ValueError(f"view must be one of {', '.join(cls)}, got {value!r}")

    def serves(self, is_fine: bool) -> bool:
        """Whether images of F (``is_fine``) or of C occur in this view."""
        return is_fine or self is not View.FINE_SUBSET


class Labels(NamedTuple):
    """Per-pixel entries ``[*spatial]`` of a batch item; dtypes and meanings stand in `erode.batch`."""

    mask: NDArray[np.int64]
    coarse: NDArray[np.int64]
    role: NDArray[np.uint8]
    prior: NDArray[np.float32]


def serve(
    view: View,
    fine: Mask | None,
    coarse: Mask,
    label: int,
    is_fine: bool,
    prior: PositionPrior | None = None,
    spacing: Spacing = None,
) -> Labels:
    """Labels of one image under a view.

    Under ``View.RETAIN`` the result for an image of C is a function of D_r alone: of which pixels lie outside
    the coarse region, of the class of the image, and of the prior. ``fine`` is not looked at.

    Args:
        view: which labels are served.
        fine: fine class mask ``[*spatial]``; None where there is none.
        coarse: coarse class mask ``[*spatial]``.
        label: class of the image, 0 = no pathology.
        is_fine: whether the image belongs to F.
        prior: position prior of the retain view; None = serve none.
        spacing: pixel size along each axis, for the prior.

    Raises:
        ValueError: if a mask holds another class than the label, the coarse mask does not contain the fine
            one, the view needs a fine mask that is missing, or it does not serve images of C and this is one.

    Source:
        theory §1 (atoms) and §2, terms 1 and 3.

    Example:
        >>> coarse = np.array([[0, 2, 2, 2]])
        >>> labels = serve(View.RETAIN, None, coarse, label=2, is_fine=False)
        >>> labels.mask.tolist(), labels.coarse.tolist(), labels.role.tolist()
        ([[0, 0, 0, 0]], [[0, 2, 2, 2]], [[0, 2, 2, 2]])
    """
    if not view.serves(is_fine):
        raise ValueError(f"the view '{view}' serves images with fine masks only; leave the others out of its data")
    _check_class("coarse", coarse, label)
    inside = coarse != 0
    role = np.full(coarse.shape, Role.RETAIN, dtype=np.uint8)
    no_prior = np.full(coarse.shape, NO_PRIOR, dtype=np.float32)
    if view is View.RETAIN and not is_fine:
        role[inside] = Role.UNLABELLED
        return _labels(np.zeros_like(coarse), coarse, role, no_prior if prior is None else prior(coarse, spacing))
    if view is View.COARSE and not is_fine:
        role[inside] = Role.FORGET
        return _labels(coarse, coarse, role, no_prior)
    if fine is None:
        raise ValueError(
            f"the view '{view}' needs the fine mask of this image, and there is none; add it, or count the "
            "image among those with coarse masks only and use the view 'coarse' or 'retain'"
        )
    _check_class("fine", fine, label)
    corrected = ring(fine, coarse)
    if view is View.COARSE:
        role[corrected] = Role.FORGET
        return _labels(coarse, coarse, role, no_prior)
    if not is_fine:  # FINE: the ideal knows more of C than D_r holds
        role[inside] = Role.FORGET
    return _labels(fine, coarse, role, no_prior)


def _labels(mask: Mask, coarse: Mask, role: NDArray[np.uint8], prior: NDArray[np.float32]) -> Labels:
    return Labels(_classes(mask), _classes(coarse), role, prior)


def _classes(mask: Mask) -> NDArray[np.int64]:
    return np.array(mask, dtype=np.int64)  # a copy: no two entries of a batch share memory


def _check_class(name: str, mask: Mask, label: int) -> None:
    found = image_class(mask)
    if found not in (0, label):
        raise ValueError(f"the {name} mask holds class {found}, but the image is of class {label}; correct one of them")
