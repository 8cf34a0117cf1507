"""Expected information gain of experimental designs: the mutual information of latents and data under each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi import labels
from numpyro_mi.direct.base import DirectMethod
from numpyro_mi.direct.mine_ais import MINEAIS
from numpyro_mi.draws.keys import as_key
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.base import EvidenceMethod
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.joint.checks import ModelError
from numpyro_mi.model.joint.joint_model import JointModel
from numpyro_mi.model.joint.told import is_concretisation
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.model.views.samples import StagedSamples
from numpyro_mi.options import shown
from numpyro_mi.results.gain import InformationGain, worse
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.runs.blocks import block_size
from numpyro_mi.runs.direct import RawTerms, direct_result, direct_samples, run_on_model
from numpyro_mi.runs.evidence import Rows, require_likelihood
from numpyro_mi.runs.posterior import PosteriorGain, posterior_gains
from numpyro_mi.verbs.arguments import DEFAULT_NUM_SAMPLES, DIRECT_METHODS, check_run, integer, lower_alone

_LEAST_DRAWS = 100  # of a look: levels are those of many draws


def expected_information_gain(
    model: Callable,
    designs: Mapping[str, Any] | tuple,
    latent: str | Sequence[str],
    data: str | Sequence[str],
    given: str | Sequence[str] | Mapping[str, Any] = (),
    *,
    method: EvidenceMethod | DirectMethod | None = None,
    num_samples: int = DEFAULT_NUM_SAMPLES,
    looks: Sequence[int] = (),
    posterior_samples: Mapping[str, Any] | None = None,
    rng_key: jax.Array | int | None = None,
    params: Mapping[str, Any] | None = None,
    model_args: tuple = (),
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress_bar: bool = True,
) -> InformationGain:
    """Bounds on the expected information gain I(latent; data) of each of several designs.

    The designs share the random numbers, so that their differences are far more precise than either gain.
    Each has pilots of its own. Values that are arrays go through one compiled program for all designs; what
    the program itself depends on, sizes and Python numbers, takes a program for each of its values, with the
    same random keys. The result says how many these were.

    Parameters
    ----------
    model
        A NumPyro model that takes the design as arguments.
    designs
        A dict of keyword arguments, or a tuple of positional ones, whose arrays have a leading axis over the
        designs. Sizes and numbers that decide what the model does must be sequences of Python numbers. Of several
        values with labels (pandas or xarray), which must be the same, rows go together by label, and designs are in
        the order of the first.
    latent, data, given
        As in `mi_bounds`.
    method
        With both sides, as `AIS(...)` or `IWAE(...)`; None means `AIS()`. For simulators without a likelihood
        `MINEAIS(...)` (None there), `GIWAE(...)` and the other methods of `mi_bounds` with a lower side alone: then no
        design is called best, and none can be dropped.
    model_args, model_kwargs
        The other arguments of the model. Positional designs come first.
    num_samples
        Joint draws of each design, fixed beforehand.
    looks
        Numbers of joint draws, at least 100 and fixed beforehand, at which designs that are separated below
        the best one so far are dropped: they get no further draws, and keep those that they have. The true
        best is dropped with probability at most 5 %, unless an event decides that is so rare that the draws up to
        the look do not show it. Every level that the result states is one for all looks together, so that intervals
        widen a little with the number of looks.
    posterior_samples
        For the next observation after a real history: draws of p(latent | history), such as those of the latents in
        `mcmc.get_samples()`, arrays of shape `(M, ...)` by name, in the order in which they were drawn. The model is
        that of the next observation, and its data may depend on no random site that is not in `latent`. Both bounds
        need its likelihood alone, and are only as exact as the run that drew the samples, whose own error is not in
        the standard errors. The method is `StructuredInfoNCE(...)` (None: with 1,000 particles, or M / 2), and
        `num_samples` is at most M / 2. To average over the history instead, name it in `given`.
    rng_key, params, batch_size, progress_bar
        As in `mi_bounds`, the same for every design.

    Returns
    -------
    InformationGain
        On Ctrl-C, the designs that are complete up to their last look, if these are at least two.

    Raises
    ------
    TypeError, ValueError
        For designs that do not have one number of rows; and whatever `mi_bounds` refuses.

    References
    ----------
    Foster et al., Variational Bayesian optimal experimental design, NeurIPS 2019 (the quantity, and bounds by
    importance sampling).

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import MCMC, NUTS
    >>> from numpyro_mi import expected_information_gain
    >>> def model(dose, response=None):
    ...     effect = numpyro.sample("effect", dist.Normal(0, 1))
    ...     numpyro.sample("response", dist.Bernoulli(logits=effect * dose - 1), obs=response)
    >>> def fit():
    ...     mcmc = MCMC(NUTS(model), num_warmup=500, num_samples=1000, num_chains=4, progress_bar=False)
    ...     mcmc.run(jax.random.key(0), jnp.array([1.0, 1.0, 2.0]), jnp.array([0, 1, 1]))  # doses and responses so far
    ...     return mcmc.get_samples()
    >>> gain = expected_information_gain(
    ...     model, {"dose": jnp.array([0.5, 1.0, 2.0])}, "effect", "response", posterior_samples=fit()
    ... )  # doctest: +SKIP
    """
    if posterior_samples is not None and given:
        raise ValueError(
            f"posterior_samples stand for one history, and given={given!r} conditions on more: condition the run that "
            "draws the samples on all of it, or average over the history by given= without posterior_samples."
        )
    num_samples, batch_size = check_run(method, num_samples, batch_size, posterior_samples is not None)
    looks = _check_looks(looks, num_samples)
    key = as_key(rng_key)
    count, arrays = _count(designs), _arrays(designs)
    joints = []
    for i in range(count):
        args, kwargs = _design(arrays, i)
        passed = ((*args, *model_args), {**(model_kwargs or {}), **kwargs})
        with _sizes_as_numbers(designs):
            joints.append(joint_model(model, latent, data, *passed, params, given))
    rows: Sequence[Rows] | Sequence[PosteriorGain] | Sequence[_LowerGain]
    simulators = sorted({name for joint in joints for name in joint.without_density})
    if posterior_samples is not None:
        rows = posterior_gains(joints, posterior_samples, method, num_samples, key)
    elif isinstance(method, DIRECT_METHODS) or (method is None and simulators):
        notes = () if method is not None else (lower_alone(simulators),)
        rows = _lower_gains(joints, MINEAIS() if method is None else method, key, looks, notes)
    else:
        rows = _rows(joints, AIS() if method is None else cast(EvidenceMethod, method), key)
    # Before anything runs: what can be refused of any design is, and blocks have one size at every look.
    programs = {_program(row.functions) for row in rows}
    size = block_size(num_samples, rows[0].lanes) if batch_size is None else batch_size
    results, dropped = _run(rows, (*looks, num_samples), min(size, num_samples, *looks), progress_bar)
    return InformationGain(designs, results, len(rows), num_samples, looks, dropped, len(programs))


@contextmanager
def _sizes_as_numbers(designs: Any) -> Iterator[None]:
    """Say how a design is passed that is a size, where the model cannot be traced with it as an array."""
    named = designs.items() if isinstance(designs, Mapping) else enumerate(designs)
    whole = {
        name: np.asarray(values).tolist()
        for name, values in named
        if hasattr(values, "dtype") and np.ndim(values) == 1 and np.issubdtype(values.dtype, np.integer)
    }
    try:
        yield
    except ModelError as error:
        if not whole or not is_concretisation(error.__cause__):
            raise
        first, values = next(iter(whole.items()))
        raise TypeError(
            f"design {first!r} is an array of whole numbers, and the model uses an array as a size or in Python: pass "
            f"it as a sequence of Python numbers, {first!r}: {values}, which takes a compiled program for each value."
        ) from error


def _rows(joints: Sequence[JointModel], method: EvidenceMethod, key: jax.Array) -> list[Rows]:
    """What is asked of each design."""
    for joint in joints:
        require_likelihood(joint, method)
    return [Rows(joint, (decompose(joint),), method, key) for joint in joints]


@dataclass(frozen=True, eq=False)
class _LowerGain:
    """One design bounded from below alone, by a method without a likelihood; used as `Rows` are."""

    model: JointModel
    samples: StagedSamples
    method: DirectMethod
    key: jax.Array
    notes: tuple[str, ...]

    @property
    def functions(self) -> Any:
        """What is compiled."""
        return self.samples.draw, self.samples.sample_prior, self.samples.log_prior

    @property
    def lanes(self) -> int:
        """Points that one draw computes at the same time."""
        return self.method.num_particles

    def run(self, num_samples: int, size: int, progress_bar: bool, resume: None = None) -> RawTerms:
        """Train, then score."""
        return run_on_model(self.samples, self.method, self.key, num_samples, size, progress_bar)

    def result(self, raw: RawTerms, row: int = 0) -> MIBounds:
        """The lower bound of a run."""
        groups = (self.model.latent, self.model.data)
        return direct_result(*groups, self.method, self.key, raw, self.notes, tuple(self.model.fixed))


def _lower_gains(
    joints: Sequence[JointModel], method: DirectMethod, key: jax.Array, looks: tuple[int, ...], notes: tuple[str, ...]
) -> list[_LowerGain]:
    """What is asked of each design without a likelihood."""
    name = type(method).__name__
    if looks:
        raise ValueError(
            f"looks={looks!r} drop designs whose upper bound lies below the lower bound of another one, and "
            f"{name} has no upper bound: leave looks out. To compare designs, use a method with both sides, as AIS() "
            "has, if the data have a density."
        )
    return [_LowerGain(joint, direct_samples(joint, method), method, key, notes) for joint in joints]


def _run(
    rows: Sequence[Rows] | Sequence[PosteriorGain] | Sequence[_LowerGain],
    stops: tuple[int, ...],
    size: int,
    progress_bar: bool,
) -> tuple[tuple[MIBounds, ...], tuple[int, ...]]:
    """Results of the designs, and which of them were dropped: at each stop but the last, those that are worse."""
    raws: dict[int, Any] = {}
    dropped: list[int] = []
    try:
        for stop in stops:
            left = [i for i in range(len(rows)) if i not in dropped]
            for i in left:
                raw = rows[i].run(stop, size, progress_bar, raws.get(i))
                if raw.num_scored < stop:
                    raise KeyboardInterrupt
                raws[i] = raw
            if stop != stops[-1]:
                dropped += worse({i: rows[i].result(raws[i], 0) for i in left}, len(rows), len(stops))
    except KeyboardInterrupt:
        if len(raws) < 2:
            raise
    return tuple(rows[i].result(raws[i], 0) for i in sorted(raws)), tuple(sorted(dropped))


def _program(functions: Any) -> tuple:
    """What tells the compiled programs of one design from those of another."""
    leaves, tree = jax.tree.flatten(functions)
    return tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _check_looks(looks: Any, num_samples: int) -> tuple[int, ...]:
    """Refuse looks that are no increasing numbers of draws."""
    if isinstance(looks, str) or not isinstance(looks, Sequence | np.ndarray):
        raise TypeError(f"looks must be a sequence of numbers of joint draws, such as (250, 500), got {shown(looks)}.")
    found = tuple(integer("each of looks", look, at_least=_LEAST_DRAWS) for look in looks)
    if any(after <= before for before, after in pairwise((*found, num_samples))):
        raise ValueError(f"looks must increase and end below num_samples, {num_samples}, got {shown(looks)}.")
    return found


def _count(designs: Any) -> int:
    """The number of designs."""
    if not isinstance(designs, Mapping | tuple) or not designs:
        raise TypeError(
            "designs must be a dict of keyword arguments of the model, or a tuple of positional ones, each with a "
            f"leading axis over the designs, got {shown(designs)}."
        )
    named = designs.items() if isinstance(designs, Mapping) else enumerate(designs)
    lengths = {name: len(leaf) if np.ndim(leaf) else None for name, values in named for leaf in _leaves(values)}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise ValueError(f"every array of designs needs the same leading axis over the designs, got lengths {lengths}.")
    count = next(iter(lengths.values()))
    if count is None or count < 2:
        raise ValueError(f"designs needs at least two designs to compare, got {count}: for one, use mi_bounds.")
    return count


def _arrays(designs: Any) -> Any:
    """The designs with arrays in the place of what has labels, all in the order of the first that has some."""
    named = dict(designs.items()) if isinstance(designs, Mapping) else dict(enumerate(designs))
    trees = {name: values for name, values in named.items() if not isinstance(values, list | tuple)}
    found = {
        f"designs[{name!r}]{jax.tree_util.keystr(path)}": leaf
        for name, values in trees.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(values)
    }
    order = labels.orders(found)

    def array(name: Any) -> Any:
        def one(path: Any, leaf: Any) -> Any:
            what = f"designs[{name!r}]{jax.tree_util.keystr(path)}"
            rows = labels.plain(what, leaf)
            return rows[order[what]] if what in order else rows

        return jax.tree_util.tree_map_with_path(one, named[name])

    made = {name: array(name) if name in trees else values for name, values in named.items()}
    return made if isinstance(designs, Mapping) else tuple(made.values())


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
