"""Quantised training: steps that provably do not depend on any few samples (theory §5)."""

from .training import QuantisedSegmentationModule, QuantisedTraining

__all__ = ["QuantisedSegmentationModule", "QuantisedTraining"]
