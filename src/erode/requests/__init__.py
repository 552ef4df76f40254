"""Forget requests and the proof of an answer: ledgers of exposure, rewinding, streams (theory §1, §4, §6)."""

from .ledger import Exposure, Ledger, Level, read_ledger
from .request import ForgetRequest, RequestedAtoms
from .rewinding import Found, find_unexposed, restore_to, rewind
from .stream import RequestStream

__all__ = [
    "Exposure",
    "ForgetRequest",
    "Found",
    "Ledger",
    "Level",
    "RequestStream",
    "RequestedAtoms",
    "find_unexposed",
    "read_ledger",
    "restore_to",
    "rewind",
]
