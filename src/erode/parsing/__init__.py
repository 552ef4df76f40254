"""How configurations and command lines are read: jsonargparse, with fresh factories and hints."""

from .configs import located
from .fresh import FreshParser
from .hints import HintingParser, meant, nearest

__all__ = ["FreshParser", "HintingParser", "located", "meant", "nearest"]
