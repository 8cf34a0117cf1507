"""Several methods on the same joint draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax

from numpyro_mi.model.joint import checks
from numpyro_mi.options import shown
from numpyro_mi.results.comparison import ALL, Comparison
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.results.numbers import Bounds
from numpyro_mi.verbs.arguments import DEFAULT_NUM_SAMPLES, DIRECT_METHODS, METHODS
from numpyro_mi.verbs.mi_bounds import mi_bounds

if TYPE_CHECKING:
    from numpyro_mi.direct.base import DirectMethod
    from numpyro_mi.evidence.base import EvidenceMethod


def compare(
    methods: Mapping[str, EvidenceMethod | DirectMethod] | Mapping[str, MIBounds],
    model: Callable | None = None,
    latent: str | Sequence[str] | None = None,
    data: str | Sequence[str] | None = None,
    given: str | Sequence[str] | Mapping[str, Any] = (),
    *,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    rng_key: jax.Array | int | None = None,
    params: Mapping[str, Any] | None = None,
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress_bar: bool = True,
) -> Comparison:
    """Bounds on the mutual information I(latent; data | given) by several methods, on the same joint draws.

    The draws are shared, so that differences between methods are far more precise than either bound.

    Parameters
    ----------
    methods
        By name, in the order to show: methods such as `AIS(...)` or `IWAE(...)`, which are run one
        after the other; or finished results of `mi_bounds`, which must be of the same model (that is
        not checked beyond the names of its groups) and share key, number of draws and precision.
    model, latent, data, given
        As in `mi_bounds`; not for finished results. Methods without densities take `given` at values only.
    num_samples, rng_key, params, model_args, model_kwargs, batch_size, progress_bar
        As in `mi_bounds`, the same for every method.

    Returns
    -------
    Comparison
        With a table, paired differences and an interval that all methods support; `plot_bounds` draws
        it. On Ctrl-C, the methods that are complete, if these are at least two.

    Raises
    ------
    TypeError, ValueError
        For entries that cannot be compared, before anything runs; and whatever `mi_bounds` refuses.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> from numpyro_mi import AIS, IWAE
    >>> from numpyro_mi.verbs.compare import compare
    >>> def model(x=None):
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("x", dist.Normal(z, 0.5), obs=x)
    >>> methods = {"AIS": AIS(20), "IWAE": IWAE(num_particles=10)}
    >>> comparison = compare(methods, model, "z", "x", progress_bar=False)
    >>> comparison.differences()  # doctest: +SKIP
    """
    finished = _check_entries(methods)
    nouns = {"model": model, "latent": latent, "data": data}
    if finished:
        options = {
            "given": given or None,
            "num_samples": None if num_samples == DEFAULT_NUM_SAMPLES else num_samples,
            "rng_key": rng_key,
            "params": params,
            "model_args": model_args or None,
            "model_kwargs": model_kwargs,
            "batch_size": batch_size,
        }
        passed = [name for name, value in {**nouns, **options}.items() if value is not None]
        if passed:
            raise ValueError(f"compare of finished results runs nothing, so leave out {', '.join(passed)}.")
        return Comparison(dict(methods))  # type: ignore[arg-type]
    missing = [name for name, value in nouns.items() if value is None]
    if missing:
        raise ValueError(f"compare of methods runs them on a model, so it needs {', '.join(missing)} as well.")
    if given and not isinstance(given, Mapping):  # before the first method has run for an hour
        for name, method in methods.items():
            if isinstance(method, DIRECT_METHODS):
                names = (given,) if isinstance(given, str) else tuple(given)
                checks.given_needs_likelihood(names, f"{name!r}, {type(method).__name__},")

    def run(method: EvidenceMethod | DirectMethod) -> MIBounds:
        return mi_bounds(
            model,  # type: ignore[arg-type]
            latent,  # type: ignore[arg-type]
            data,  # type: ignore[arg-type]
            given,
            method=method,
            num_samples=num_samples,
            rng_key=rng_key,
            params=params,
            model_args=model_args,
            model_kwargs=model_kwargs,
            batch_size=batch_size,
            progress_bar=progress_bar,
        )

    return _run_all(methods, run)


def _run_all(methods: Mapping[str, Any], run: Callable[[Any], MIBounds]) -> Comparison:
    """Every method in turn; on Ctrl-C what is complete, if that can be compared."""
    results: dict[str, MIBounds] = {}
    for name, method in methods.items():
        try:
            result = run(method)
            if result.partial:  # mi_bounds was interrupted, and gives what it has
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            if len(results) < 2:
                raise
            return Comparison(results, tuple(other for other in methods if other not in results))
        except Exception as error:
            error.add_note(f"This was raised by the method {name!r} of compare.")
            raise
        results[name] = result
    return Comparison(results)


def _check_entries(methods: Any) -> bool:
    """Refuse what cannot be compared; whether the entries are finished results."""
    if not isinstance(methods, Mapping):
        raise TypeError(f"compare needs a dict of methods or results by name, got {type(methods).__name__}.")
    if len(methods) < 2:
        raise ValueError(f"compare needs at least two methods or results, got {len(methods)}.")
    for name in methods:
        if not isinstance(name, str):
            raise TypeError(f"compare needs names that are strings, got {shown(name)}.")
    if ALL in methods:
        raise ValueError(f"{ALL!r} cannot be a name in compare: as a reference it means every pair.")
    for name, entry in methods.items():
        if not isinstance(entry, (*METHODS, *DIRECT_METHODS, MIBounds)):
            got = type(entry).__name__ if isinstance(entry, Bounds) else repr(entry)
            raise TypeError(
                f"compare needs methods such as AIS(...), which mi_bounds runs, or finished results, got {got} as "
                f"{name!r}."
            )
    results = [isinstance(entry, MIBounds) for entry in methods.values()]
    if any(results) and not all(results):
        raise TypeError("compare needs either methods or finished results, got a mixture of the two.")
    return all(results)
