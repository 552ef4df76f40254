"""``erode operators``: what there is to unlearn with, in tables made of what the operators say about themselves."""

from .command import operator_cards, operator_kinds, operators

__all__ = ["operator_cards", "operator_kinds", "operators"]
