"""The command line: LightningCLI with an ``unlearn`` verb, run folders that are never overwritten, plain verbs."""

from .main import console, main

__all__ = ["console", "main"]
