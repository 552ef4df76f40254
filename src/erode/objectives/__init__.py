"""Objectives of image classifiers: what becomes of the losses of single images (theory §8)."""

from .base import ClassificationObjective, TrainingSet, global_means
from .erm import ERM
from .group_dro import GroupDRO
from .train_twice import JustTrainTwice

__all__ = ["ERM", "ClassificationObjective", "GroupDRO", "JustTrainTwice", "TrainingSet", "global_means"]
