"""Several methods on the same joint draws, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from numpyro_mi.api import DEFAULT_NUM_SAMPLES, mi_bounds
from numpyro_mi.estimation import confidence_limit, mean
from numpyro_mi.report import _bits, _count, _number, warnings_of
from numpyro_mi.results import Bounds, MIBounds, _pairing

if TYPE_CHECKING:
    import pandas as pd

    from numpyro_mi.bounds.base import DirectMethod
    from numpyro_mi.evidence.base import EvidenceMethod

ALL = "all"
"""As a reference: every pair of methods."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Bounds on one mutual information by several methods on the same joint draws, in nats.

    Never report the bound that looks best as it stands: it was chosen for its error as well, and its
    own interval no longer covers as often as it says. `interval` allows for that choice.

    Attributes
    ----------
    results
        The result of each method by name, in the order given.
    interrupted
        Names of the methods that Ctrl-C left without a complete result. `interval` and `differences`
        still count them, since what was left out may have been chosen after looking.
    """

    results: dict[str, MIBounds]
    interrupted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", dict(self.results))
        _check_shared(self.results)

    @property
    def num_samples(self) -> int:
        """Joint draws that every method scored."""
        return max(result.num_samples for result in self.results.values())

    def to_frame(self) -> pd.DataFrame:
        """Table with one row a method.

        Columns `lower`, `lower_se`, `upper`, `upper_se`, `gap` and `gap_se` in nats (NaN where a side
        does not exist), `seconds` of wall-clock (compiling included, so that a method profits from
        what an earlier one compiled) and `gradients`, those of pilots included, of which a method without
        transitions needs none.
        """
        import pandas as pd

        names = ("lower", "lower_se", "upper", "upper_se", "gap", "gap_se")
        rows = {
            method: {
                **{name: _or_nan(getattr(result, name)) for name in names},
                "seconds": float(sum(result.seconds.values())),
                "gradients": sum(count for name, count in result.cost.items() if not name.endswith("_rows")),
            }
            for method, result in self.results.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def differences(self, reference: str | None = None, *, prob: float = 0.95) -> pd.DataFrame:
        """Differences of the lower bounds, and of the upper bounds, paired over the joint draws.

        A difference of two lower bounds says which of them is tighter, and by how much; it does not
        say that the mutual information differs, which is the same for all methods. A positive one
        means that `method` is tighter than `reference`; for upper bounds, a negative one.

        Parameters
        ----------
        reference
            Name of the method that all others are compared with: one chosen beforehand, never the one
            that looks best. None: the first. "all": every pair, the earlier as the reference.
        prob
            Probability with which all limits of the table hold together.

        Returns
        -------
        pandas.DataFrame
            Two rows a pair, indexed by `method`, `reference` and `bound`: the `difference`, its paired
            standard error `se`, `unpaired_se` as it were on separate draws, and the limits
            `simultaneous_low` and `simultaneous_high`. Each pair of limits is at `level`, which is
            `1 - (1 - prob) / m` for the m differences of the table (Bonferroni). NaN where one of the
            two has no such bound.
        """
        import pandas as pd

        pairs, planned = self._pairs(reference)
        rows = []
        for method, base in pairs:
            for side in ("lower", "upper"):
                one, two = (getattr(self.results[name], f"{side}_i") for name in (method, base))
                rows.append((method, base, side, None if one is None or two is None else (one, two)))
        count = sum(terms is not None for *_, terms in rows) + 2 * (planned - len(pairs))
        level = _simultaneous(prob, count)
        table = pd.DataFrame([_difference(terms, level) for *_, terms in rows])
        index = [row[:3] for row in rows]
        return table.set_index(pd.MultiIndex.from_tuples(index, names=["method", "reference", "bound"]))

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Confidence interval for the mutual information that all methods support, nats.

        The intersection of the methods' own intervals, each at `level(prob)`. It covers the truth with
        probability at least `prob` for many draws, although the tightest limits were picked after
        looking. A method that only estimates, and bounds nothing, does not enter.

        If the intersection is empty, which has a probability of at most `1 - prob` where every bound is
        valid, the pair is returned as it is, with `low > high`, and the printed comparison says so.

        Parameters
        ----------
        prob
            Coverage, between 0 and 1.
        """
        level = self.level(prob)
        ends = [result.interval(level) for result in self._bounding()]
        return max((low for low, _ in ends), default=-np.inf), min((high for _, high in ends), default=np.inf)

    def level(self, prob: float = 0.95) -> float:
        """Level at which each method's own interval holds so that all do together with probability `prob`.

        It is `1 - (1 - prob) / m` for m methods (Bonferroni).
        """
        return _simultaneous(prob, len(self._bounding()) + len(self.interrupted))

    def _bounding(self) -> list[MIBounds]:
        """Results that bound something, rather than only estimate it."""
        return [
            result
            for result in self.results.values()
            if (result.lower_i is not None or result.upper_i is not None)
            and getattr(result, "estimate_i", None) is None
        ]

    def _pairs(self, reference: str | None) -> tuple[list[tuple[str, str]], int]:
        """Pairs (method, reference), and how many there were to be before an interruption."""
        names, every = list(self.results), len(self.results) + len(self.interrupted)
        if reference == ALL:
            return [(second, first) for first, second in combinations(names, 2)], every * (every - 1) // 2
        reference = names[0] if reference is None else reference
        if reference not in self.results:
            raise ValueError(f"reference must be one of {names}, {ALL!r} or None for the first, got {reference!r}.")
        return [(name, reference) for name in names if name != reference], every - 1

    def __repr__(self) -> str:
        return _report(self)


def compare(
    methods: Mapping[str, EvidenceMethod | DirectMethod] | Mapping[str, MIBounds],
    model: Callable | None = None,
    latent: str | Sequence[str] | None = None,
    data: str | Sequence[str] | None = None,
    *,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    rng_key: jax.Array | int | None = None,
    params: Mapping[str, Any] | None = None,
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress_bar: bool = True,
) -> Comparison:
    """Bounds on the mutual information I(latent; data) by several methods, on the same joint draws.

    The draws are shared, so that differences between methods are far more precise than either bound.

    Parameters
    ----------
    methods
        By name, in the order to show: methods such as `AIS(...)` or `IWAE(...)`, which are run one
        after the other; or finished results of `mi_bounds`, which must be of the same model (that is
        not checked beyond the names of its groups) and share key, number of draws and precision.
    model, latent, data
        As in `mi_bounds`; not for finished results.
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
    >>> from numpyro_mi.comparison import compare
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
            "num_samples": None if num_samples == DEFAULT_NUM_SAMPLES else num_samples,
            "rng_key": rng_key,
            "params": params,
            "model_args": model_args or None,
            "model_kwargs": model_kwargs,
            "batch_size": batch_size,
        }
        given = [name for name, value in {**nouns, **options}.items() if value is not None]
        if given:
            raise ValueError(f"compare of finished results runs nothing, so leave out {', '.join(given)}.")
        return Comparison(dict(methods))  # type: ignore[arg-type]
    missing = [name for name, value in nouns.items() if value is None]
    if missing:
        raise ValueError(f"compare of methods runs them on a model, so it needs {', '.join(missing)} as well.")

    def run(method: EvidenceMethod | DirectMethod) -> MIBounds:
        return mi_bounds(
            model,  # type: ignore[arg-type]
            latent,  # type: ignore[arg-type]
            data,  # type: ignore[arg-type]
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
            raise TypeError(f"compare needs names that are strings, got {name!r}.")
    if ALL in methods:
        raise ValueError(f"{ALL!r} cannot be a name in compare: as a reference it means every pair.")
    results = [isinstance(entry, MIBounds) for entry in methods.values()]
    for name, entry in methods.items():
        known = is_dataclass(entry) and not isinstance(entry, type)
        if not known or (isinstance(entry, Bounds) and not isinstance(entry, MIBounds)):
            got = type(entry).__name__ if isinstance(entry, Bounds) else repr(entry)
            raise TypeError(f"compare needs methods such as AIS(...), or results of mi_bounds, got {got} as {name!r}.")
    if any(results) and not all(results):
        raise TypeError("compare needs either methods or finished results, got a mixture of the two.")
    return all(results)


def _check_shared(results: Mapping[str, MIBounds]) -> None:
    """Refuse results that are not about the same draws of the same groups."""
    shared = {name: _shared(result) for name, result in results.items()}
    first = max(shared, key=lambda name: len(shared[name]))  # the first of those that have draws
    for name, theirs in shared.items():
        unlike = [
            f"{what}: {shared[first][what]} and {value}"
            for what, value in theirs.items()
            if value != shared[first][what]
        ]
        if unlike:
            raise ValueError(
                "a comparison is paired by common joint draws, which needs results with the same groups, rng_key, "
                f"num_samples and precision; {first!r} and {name!r} have {'; '.join(unlike)}."
            )


def _shared(result: MIBounds) -> dict[str, Any]:
    """What two results of a comparison have in common; an estimate without terms has no number of draws."""
    groups = sorted([sorted(result.latent), sorted(result.data)])  # mutual information is symmetric
    pairing = _pairing(result)
    if result.num_samples == 0:
        del pairing["num_samples"]
    return {"groups": groups, **pairing}


def _simultaneous(prob: float, count: int) -> float:
    """Level of each of `count` intervals that hold together with probability `prob`."""
    if not 0 < prob < 1:
        raise ValueError(f"a comparison needs a probability between 0 and 1, got {prob!r}.")
    return 1 - (1 - prob) / max(count, 1)


def _difference(terms: tuple[np.ndarray, np.ndarray] | None, level: float) -> dict[str, float]:
    """One row of the table of differences."""
    names = ("difference", "se", "unpaired_se", "simultaneous_low", "simultaneous_high")
    if terms is None:
        return {**dict.fromkeys(names, np.nan), "level": np.nan}
    with np.errstate(invalid="ignore"):
        paired = terms[0] - terms[1]
    limits = [confidence_limit(paired, side, (1 + level) / 2) for side in (-1, +1)]
    unpaired = float(np.hypot(mean(terms[0]).se, mean(terms[1]).se))
    return {**dict(zip(names, (*mean(paired), unpaired, *limits), strict=True)), "level": level}


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _report(comparison: Comparison) -> str:
    """One readable block: table, interval, what is missing, warnings."""
    results = comparison.results
    one = next(iter(results.values()))
    names = f"I({', '.join(one.latent)}; {', '.join(one.data)})"
    lines = [
        f"Comparison for {names}: {len(results)} methods on the same {comparison.num_samples:,} joint draws",
        *_table(results),
        f"  95% interval that all support  {_interval(comparison)}",
    ]
    if comparison.interrupted:
        lines.append(f"  interrupted  no complete result of {', '.join(comparison.interrupted)}")
    low, high = comparison.interval(0.95)
    if low > high:
        lines.append(
            "  warning  the intervals of the methods do not overlap, which has a probability of at most 5% where every "
            "bound is valid: are all results of the same model?"
        )
    lines += [f"  warning  {name}: {text}" for name, result in results.items() for text in warnings_of(result)]
    return "\n".join(lines)


def _interval(comparison: Comparison) -> str:
    low, high = comparison.interval(0.95)
    count = len(comparison._bounding()) + len(comparison.interrupted)
    note = "(of 1 method)" if count == 1 else f"(simultaneous over {count} methods)"
    if low > high:
        return f"empty: {_number(low)} > {_number(high)} nats {note}"
    return f"[{_number(low)}, {_number(high)}] nats = [{_bits(low)}, {_bits(high)}] bits {note}"


def _table(results: Mapping[str, MIBounds]) -> list[str]:
    """A line a method, in columns."""
    head = ("method", "lower bound", "upper bound", "gap (nats)", "seconds", "gradients")
    rows = [
        (
            name,
            *(_pair(getattr(result, side), getattr(result, f"{side}_se")) for side in ("lower", "upper", "gap")),
            f"{sum(result.seconds.values()):.1f}" if result.seconds else "-",
            _count(sum(result.cost.values())),
        )
        for name, result in results.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        left, *right = (
            cell.rjust(width) if i > 3 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  " + "  ".join((left, *right)).rstrip())
    return lines


def _pair(value: float | None, se: float | None) -> str:
    if value is None or se is None:
        return "-"
    return f"{_number(value)} ± {_number(se)}" if np.isfinite(value) else f"{value}"
