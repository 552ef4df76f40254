"""Metrics of shortcut reliance and of forgetting beside the usual ones (theory §7, §8)."""

from .agreement import Completeness
from .auroc import ImageAUROC, RobustAUROC, mann_whitney_auroc
from .certified import (
    CertifiedInterval,
    certified_box,
    certified_interval,
    information_gap_bound,
    information_range,
)
from .coarse_content import CoarseContent, Content, coarse_variance
from .decision_rule import DecisionRule, ImageEvidence, balanced_accuracy, pixels_above
from .dice import SegmentationDice, image_dice
from .distance import ProbabilityDistance, ZeroRetrainForgetting, jensen_shannon
from .group_pixels import GroupForegroundOutcome, GroupIoU
from .groups import GroupAccuracy, GroupDice
from .indistinguishability import PixelIndistinguishability, pixel_indistinguishability
from .information import deviance_residuals, miller_madow_bias, root_interval, table_information
from .layers import LayerDistance, layer_distances
from .leakage import SpuriousLeakage, leakage_rates
from .membership import Attack, Membership, MembershipInference
from .outcome import ForegroundOutcome
from .prevalence import SweepPoint, prevalence_sweep, prevalence_weights, weighted_auroc, weighted_mean
from .probe import LinearProbe, pooled_features, ridge_logistic
from .radial import RadialDice
from .relearning import RelearnTime, anamnesis_index, recovery_threshold, relearn_time
from .resampling import exact_binomial, roc_points
from .scores import component_probability, foreground_probability, mean_probability, positive_by_area
from .slices import SliceCounts
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
from .subgroup_rates import Proportion, Rates, subgroup_rates
from .subsets import balanced_subset, inverted_subset

__all__ = [
    "Attack",
    "BoxTightness",
    "CertifiedInterval",
    "CoarseContent",
    "Completeness",
    "Content",
    "DecisionRule",
    "ForegroundOutcome",
    "GlobalSpuriousInformation",
    "GroupAccuracy",
    "GroupDice",
    "GroupForegroundOutcome",
    "GroupIoU",
    "ImageAUROC",
    "ImageEvidence",
    "LayerDistance",
    "LinearProbe",
    "Membership",
    "MembershipInference",
    "PixelIndistinguishability",
    "ProbabilityDistance",
    "Proportion",
    "RadialDice",
    "Rates",
    "RelearnTime",
    "RobustAUROC",
    "SegmentationDice",
    "SliceCounts",
    "SpuriousInformation",
    "SpuriousLeakage",
    "SweepPoint",
    "ZeroRetrainForgetting",
    "anamnesis_index",
    "balanced_accuracy",
    "balanced_subset",
    "break_even",
    "certified_box",
    "certified_interval",
    "coarse_variance",
    "component_probability",
    "deviance_residuals",
    "exact_binomial",
    "foreground_probability",
    "image_dice",
    "information_gap_bound",
    "information_range",
    "inverted_subset",
    "jensen_shannon",
    "layer_distances",
    "leakage_rates",
    "mann_whitney_auroc",
    "mean_probability",
    "miller_madow_bias",
    "pixel_indistinguishability",
    "pixels_above",
    "pixelwise_information",
    "pooled_features",
    "pooled_information",
    "positive_by_area",
    "prevalence_sweep",
    "prevalence_weights",
    "recovery_threshold",
    "refinement_advice",
    "relearn_time",
    "ridge_logistic",
    "roc_points",
    "root_interval",
    "spurious_information_closed_form",
    "subgroup_rates",
    "table_information",
    "turning_point",
    "weighted_auroc",
    "weighted_mean",
]
