"""Expected information gain of experimental designs: the mutual information of latents and data under each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.api import DEFAULT_NUM_SAMPLES, mi_bounds
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.gains import InformationGain
from numpyro_mi.results import MIBounds


def expected_information_gain(
    model: Callable,
    designs: Mapping[str, Any] | tuple,
    latent: str | Sequence[str],
    data: str | Sequence[str],
    given: str | Sequence[str] | Mapping[str, Any] = (),
    *,
    method: EvidenceMethod | None = None,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    rng_key: jax.Array | int | None = None,
    params: Mapping[str, Any] | None = None,
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress_bar: bool = True,
) -> InformationGain:
    """Bounds on the expected information gain I(latent; data) of each of several designs.

    The designs share the random numbers, so that their differences are far more precise than either gain.
    Designs of one shape share their compiled programs; each has pilots of its own.

    Parameters
    ----------
    model
        A NumPyro model that takes the design as arguments.
    designs
        A dict of keyword arguments, or a tuple of positional ones, whose arrays have a leading axis over the
        designs. Sizes and numbers that decide what the model does must be sequences of Python numbers.
    latent, data, given
        As in `mi_bounds`.
    method
        With both sides, as `AIS(...)` or `IWAE(...)`; None means `AIS()`.
    model_args, model_kwargs
        The other arguments of the model. Positional designs come first.
    num_samples, rng_key, params, batch_size, progress_bar
        As in `mi_bounds`, the same for every design.

    Returns
    -------
    InformationGain
        On Ctrl-C, the designs that are complete, if these are at least two.

    Raises
    ------
    TypeError, ValueError
        For designs that do not have one number of rows; and whatever `mi_bounds` refuses.

    References
    ----------
    Foster et al., Variational Bayesian optimal experimental design, NeurIPS 2019 (the quantity, and bounds by
    importance sampling).
    """
    count = _count(designs)
    results: list[MIBounds] = []
    for i in range(count):
        args, kwargs = _design(designs, i)
        try:
            result = mi_bounds(
                model,
                latent,
                data,
                given,
                method=method,
                num_samples=num_samples,
                rng_key=rng_key,
                params=params,
                model_args=(*args, *model_args),
                model_kwargs={**(model_kwargs or {}), **kwargs},
                batch_size=batch_size,
                progress_bar=progress_bar,
            )
            if result.partial:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            if len(results) < 2:
                raise
            break
        if result.lower_i is None or result.upper_i is None:
            raise ValueError(
                "designs are compared by a lower bound of one and an upper bound of the other, so the method needs "
                f"both sides, as AIS() has; {result.method.get('class')} has one."
            )
        results.append(result)
    return InformationGain(designs, tuple(results), count)


def _count(designs: Any) -> int:
    """The number of designs."""
    if not isinstance(designs, Mapping | tuple) or not designs:
        raise TypeError(
            "designs must be a dict of keyword arguments of the model, or a tuple of positional ones, each with a "
            f"leading axis over the designs, got {designs!r}."
        )
    named = designs.items() if isinstance(designs, Mapping) else enumerate(designs)
    lengths = {name: len(leaf) if np.ndim(leaf) else None for name, values in named for leaf in _leaves(values)}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise ValueError(f"every array of designs needs the same leading axis over the designs, got lengths {lengths}.")
    count = next(iter(lengths.values()))
    if count is None or count < 2:
        raise ValueError(f"designs needs at least two designs to compare, got {count}: for one, use mi_bounds.")
    return count


def _leaves(values: Any) -> list[Any]:
    return [values] if isinstance(values, list | tuple) else jax.tree.leaves(values)


def _design(designs: Any, i: int) -> tuple[tuple, dict[str, Any]]:
    """Positional and keyword arguments of one design."""

    def pick(values: Any) -> Any:
        if isinstance(values, list | tuple):
            return values[i]
        # As arrays, values are arguments of the compiled programs, which then serve every design.
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[i]), values)

    if isinstance(designs, Mapping):
        return (), {name: pick(values) for name, values in designs.items()}
    return tuple(map(pick, designs)), {}
