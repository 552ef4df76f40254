"""Numbers of a promise as text: never on the side that promises more, and the nearest of their length there."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from erode.accounting import rounded_down, rounded_up

VALUES = st.floats(1e-300, 1e300)
DIGITS = st.integers(1, 12)


@given(VALUES, DIGITS)
def test_text_is_on_the_safe_side_and_no_further_than_one_digit(value, digits):
    up, down = float(rounded_up(value, digits)), float(rounded_down(value, digits))
    assert down <= value <= up
    assert Fraction(up) - Fraction(down) <= Fraction(value) * Fraction(101, 100) * Fraction(10) ** (1 - digits)


@given(st.integers(1, 10**6 - 1), st.integers(-12, 6))
def test_what_was_written_with_so_few_digits_stays_as_it_is(mantissa, exponent):
    value = float(f"{mantissa}e{exponent}")
    assert float(rounded_up(value)) == float(rounded_down(value)) == value
