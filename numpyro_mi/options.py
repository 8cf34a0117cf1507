"""Checks of options that many configurations share."""

from typing import Any

import numpy as np


def integer(owner: str, name: str, value: Any, least: int = 1, alternative: str = "") -> int:
    """The option as an `int`; refuse what is no integer of at least `least`.

    Parameters
    ----------
    owner, name
        Whose option it is, and its name, for the message.
    value
        What was passed.
    least
        The smallest value allowed.
    alternative
        What would do besides, for the message.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{owner} needs {name}, {kind}{alternative}, got {value!r}.")
    return int(value)
