"""Metrics of shortcut reliance beside the usual ones (theory §7, §8)."""

from .auroc import ImageAUROC, RobustAUROC, mann_whitney_auroc
from .dice import SegmentationDice, image_dice
from .information import deviance_residuals, miller_madow_bias, root_interval, table_information
from .leakage import SpuriousLeakage, leakage_rates
from .outcome import ForegroundOutcome
from .scores import component_probability, foreground_probability, mean_probability, positive_by_area
from .specificity import (
    BoxTightness,
    break_even,
    refinement_advice,
    spurious_information_closed_form,
    turning_point,
)
from .spurious import (
    GlobalSpuriousInformation,
    SpuriousInformation,
    pixelwise_information,
    pooled_information,
)

__all__ = [
    "BoxTightness",
    "ForegroundOutcome",
    "GlobalSpuriousInformation",
    "ImageAUROC",
    "RobustAUROC",
    "SegmentationDice",
    "SpuriousInformation",
    "SpuriousLeakage",
    "break_even",
    "component_probability",
    "deviance_residuals",
    "foreground_probability",
    "image_dice",
    "leakage_rates",
    "mann_whitney_auroc",
    "mean_probability",
    "miller_madow_bias",
    "pixelwise_information",
    "pooled_information",
    "positive_by_area",
    "refinement_advice",
    "root_interval",
    "spurious_information_closed_form",
    "table_information",
    "turning_point",
]
