"""What unlearning operators say about themselves, and the tables made of it."""

from .card import Effort, Need, OperatorCard

__all__ = ["Effort", "Need", "OperatorCard"]
