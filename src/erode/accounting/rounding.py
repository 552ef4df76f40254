"""Numbers of a promise as text, rounded to the side on which the text stays true."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal


def rounded_up(value: float, digits: int = 6) -> str:
    """The smallest number of so many digits that reads as ``value`` or more; for ε, δ, μ, which promise less above.

    Args:
        value: any float.
        digits: significant ones, >= 1.

    Example:
        >>> rounded_up(1.0000001), rounded_up(0.1), rounded_up(1e-5), rounded_up(9.99999999)
        ('1.00001', '0.1', '1e-05', '10')
    """
    text = f"{value:.{digits}g}"
    return text if float(text) >= value or value != value else _cut(value, digits, ROUND_CEILING)


def rounded_down(value: float, digits: int = 6) -> str:
    """The largest number of so many digits that reads as ``value`` or less; for σ, which hides less below.

    Args:
        value: any float.
        digits: significant ones, >= 1.

    Example:
        >>> rounded_down(1.9999999), rounded_down(0.1), rounded_down(12345678.0)
        ('1.99999', '0.1', '1.23456e+07')
    """
    text = f"{value:.{digits}g}"
    return text if float(text) <= value or value != value else _cut(value, digits, ROUND_FLOOR)


def _cut(value: float, digits: int, rounding: str) -> str:
    cut = Context(prec=digits, rounding=rounding).create_decimal(Decimal(value))
    return f"{float(cut):.{digits}g}"
