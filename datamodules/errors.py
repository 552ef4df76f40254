"""The error for data that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """Files or tables that cannot be used; the message names each one and what to do about it.

    Example:
        >>> print(DataError.of(["a.png is empty (0 bytes): download it again", "b.png does not exist"]))
        2 problems in the data:
        - a.png is empty (0 bytes): download it again
        - b.png does not exist
    """

    @classmethod
    def of(cls, problems: Sequence[str], more: bool = False) -> DataError:
        """One error for several problems.

        Args:
            problems: what is wrong, where, and what to do: one line each.
            more: the search stopped before all of the data was seen.
        """
        if len(problems) == 1 and not more:
            return cls(problems[0])
        listed = "".join(f"\n- {problem}" for problem in problems)
        rest = "\nThe search stopped here; there may be more." if more else ""
        return cls(f"{len(problems)} problems in the data:{listed}{rest}")
