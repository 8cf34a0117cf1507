"""The message of an exception that a user's code raised, as that user would tell it.

JAX describes a traced value by where it became one, and Python a function by its address; both are of no use to who
reads the message, and neither are the paths of installed packages.
"""

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import jax

_PATTERNS = (
    # JAX: which function was traced, and the operations that a value comes from.
    (re.compile(r"\s*The error occurred while tracing the function.*", re.DOTALL), ""),
    (re.compile(r"\s*This (?:value became a tracer|concrete value was not available|\w*Tracer with).*", re.DOTALL), ""),
    (re.compile(r"\s*See https?://\S*jax\S*errors\S*"), ""),
    (re.compile(r"Traced<([^<>]*)>(?:with<[^<>]*(?:<[^<>]*>[^<>]*)*>)?"), r"a traced \1"),
    (re.compile(r"\b\w*Tracer<([^<>]*)>|\b\w*Tracer\(([^()]*)\)"), r"a traced \1\2"),
    (re.compile(r"Abstract tracer value encountered where concrete value is expected: "), "there must be no "),
    (re.compile(r"\s*The problem arose with the (`\w+`) function\b.*", re.DOTALL), r" in \1"),
    (re.compile(r"\s*If using `jit`, try using `static_argnums`.*", re.DOTALL), ""),
    (re.compile(r"'?\b\w+Tracer\b'?"), "a traced array"),
    (re.compile(r"a traced ShapedArray\(([^()]*)\)"), r"a traced \1"),
    (
        re.compile(r"<(?:bound method |function |built-in method )?((?:[^<>]|<\w+>)*?)(?: object)? at 0x\w+>"),
        r"\1",
    ),
    (re.compile(r"<function ((?:[^<>]|<\w+>)*)>"), r"\1"),
    (re.compile(r" at 0x[0-9a-fA-F]{6,}"), ""),
    (re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?(?:[\\/][\w.+@ -]+)*[\\/]([\w.+-]+\.py)\b"), r"\1"),
)
_LONGEST = 100  # characters of a line of code
_SIZE = (
    "A size, a Python index or an `if` depends on a JAX array there. Pass sizes and choices as Python numbers, and "
    "write what depends on draws with jnp.where or jax.lax.cond."
)
_NUMPY = "NumPy was called on a JAX array there, which may depend on draws: use jax.numpy."
_INDEX = "An index of an array must be a whole number: convert it, as by .astype(int)."
_STATE = (
    "A module with mutable state, such as batch normalisation, needs the state beside its parameters: "
    "flax_module(..., mutable=[...]) and params={**svi_result.params, **svi_result.state.mutable_state}."
)
_HINTS = (
    (re.compile(r"concrete values? of integer type|cannot be interpreted as an integer"), _SIZE),
    (re.compile(r"\bnn_state\b|from collection \"\w+\" in .* but the collection is empty"), _STATE),
    (re.compile(r"Indexer must have integer or boolean type|indices must be integers"), _INDEX),
)


def told(error: BaseException) -> str:
    """The message without tracers, addresses and absolute paths, with a hint where one is known."""
    text = plain(str(error)).strip() or _place(error)
    hints = [_NUMPY] if isinstance(error, jax.errors.TracerArrayConversionError) else []
    hints += [_SIZE] if isinstance(error, jax.errors.JAXTypeError) else []
    hints += [hint for pattern, hint in _HINTS if pattern.search(text)]
    return f"{text.rstrip('.')}. {hints[0]}" if hints else text


@contextmanager
def blamed_on(what: str) -> Iterator[None]:
    """Say which function of a user raised."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what} raised {type(error).__name__}: {told(error)}") from error


def is_concretisation(error: BaseException | None) -> bool:
    """Whether a traced array was used as a size, or in Python."""
    return isinstance(error, jax.errors.JAXTypeError) or bool(error and _HINTS[0][0].search(str(error)))


def plain(text: str) -> str:
    """A text without tracers, addresses and absolute paths."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _place(error: BaseException) -> str:
    """Where an exception without a message was raised, and from which line outside of installed packages."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "numpyro_mi" not in frame.filename]
    last = frames[-1]
    places = [f"raised at {_line(last)}"]
    if own and own[-1] is not last:
        places.append(f"called from {_line(own[-1])}")
    return ", ".join(places)


def _line(frame: traceback.FrameSummary) -> str:
    line = frame.line or ""
    text = line if len(line) <= _LONGEST else line[:_LONGEST] + "..."
    return f"`{text}` ({os.path.basename(frame.filename)}, line {frame.lineno})"
