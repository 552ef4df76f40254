"""All measures of theory §8 at once: a model that unlearnt, beside the original and one retrained without the set."""

from .command import measure

__all__ = ["measure"]
