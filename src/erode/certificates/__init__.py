"""Certificates: what they say, how they are recomputed, and the records of runs beside them."""

from .certificate import (
    ASSUMPTIONS,
    CHECKPOINT_KEY,
    Account,
    Target,
    VerificationError,
    certificate,
    claim_of,
    save_certificate,
    sentence,
)
from .checks import check_certificate
from .record import RECORD, check_record
from .verify import check, verify

__all__ = [
    "ASSUMPTIONS",
    "CHECKPOINT_KEY",
    "RECORD",
    "Account",
    "Target",
    "VerificationError",
    "certificate",
    "check",
    "check_certificate",
    "check_record",
    "claim_of",
    "save_certificate",
    "sentence",
    "verify",
]
