"""Checks of options that many configurations share."""

import re
from typing import Any

import numpy as np

_ADDRESS = re.compile(r"<(?:function |(?:bound )?method )?((?:[^<>]|<\w+>)*?)(?: object)? at 0x[0-9a-fA-F]+>")


def shown(value: Any) -> str:
    """A value as text for a message: its `repr`, in which functions and objects have no addresses."""
    return _ADDRESS.sub(r"\1", repr(value))


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
        raise ValueError(f"{owner} needs {name}, {kind}{alternative}, got {shown(value)}.")
    return int(value)
