"""How configurations and command lines are read: jsonargparse, with fresh factories and hints."""

from .fresh import FreshParser
from .hints import HintingParser, nearest

__all__ = ["FreshParser", "HintingParser", "nearest"]
