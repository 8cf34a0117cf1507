"""Bad input, refused with one clear error before anything compiles."""

import difflib
import inspect
import itertools
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_mi.model.sites import MOST_CHOICES, Site, unwrapped


class ModelError(ValueError):
    """The model itself raised while it was traced; the cause is chained."""


class _Refusal(ValueError):
    """A check of ours that runs inside the model, so that its message needs no wrapping."""


@contextmanager
def model_errors() -> Iterator[None]:
    """Keep the message of an exception raised by the model, and say where it came from."""
    try:
        yield
    except ModelError:
        raise
    except _Refusal as refusal:
        raise ValueError(str(refusal)) from None
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = str(error) or f"no message, at {last.filename}:{last.lineno}: {last.line}"
        raise ModelError(f"the model raised {type(error).__name__} while it was traced: {what}") from error


def group(role: str, names: str | Sequence[str], optional: bool = False) -> tuple[str, ...]:
    """Normalise one group of site names."""
    if optional and isinstance(names, Sequence) and not names and not isinstance(names, str):
        return ()
    if isinstance(names, str):
        names = (names,)
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{role} must be a site name or a sequence of site names, got {names!r}.")
    if not names or "" in names:
        raise ValueError(f"{role} is empty: name at least one site of the model.")
    if len(set(names)) < len(names):
        raise ValueError(f"{role} names a site twice: {tuple(names)}.")
    return tuple(names)


def fixed_values(given: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Normalise values that sites are held at."""
    found = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise TypeError(f"given must map site names to values, got the key {name!r}.")
        try:
            found[name] = jnp.asarray(value)
        except (TypeError, ValueError):
            raise TypeError(f"given holds site {name!r} at {_short(value)}, which is no array.") from None
    return found


def disjoint(groups: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a site that is in two groups."""
    for first, second in itertools.combinations(groups, 2):
        both = sorted(set(groups[first]) & set(groups[second]))
        if both:
            raise ValueError(
                f"site(s) {_listed(both)} are in both {first} and {second}: a site belongs to one group."
            )


def arguments(
    model: Callable, args: tuple, kwargs: Mapping[str, Any] | None, params: Mapping[str, Any] | None
) -> tuple[tuple, dict, dict]:
    """Normalise what the model is called with; refuse what it does not take."""
    if not callable(model):
        raise TypeError(f"model must be a NumPyro model (a callable), got {type(model).__name__}.")
    if not isinstance(args, tuple | list):
        raise TypeError(
            f"model_args must be a tuple of positional arguments, got {type(args).__name__}: for one "
            "argument, write model_args=(argument,)."
        )
    for name, value, holds in (("model_kwargs", kwargs, "argument"), ("params", params, "parameter")):
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a dict by {holds} name, got {type(value).__name__}.")
    args, kwargs = tuple(args), dict(kwargs or {})
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        signature = None
    try:
        if signature is not None:
            signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"the model cannot be called with model_args={_short(args)} and model_kwargs={_short(kwargs)}: {error}. "
            f"Its signature is {signature}; an argument that holds data may be any array of the right shape."
        ) from None
    return args, kwargs, dict(params or {})


def names(sites: Mapping[str, Site], groups: Mapping[str, tuple[str, ...]]) -> None:
    """Require every named site to be a random site of the model."""
    random_sites = [name for name, site in sites.items() if site.kind == "sample" and not site.auxiliary]
    for role, members in groups.items():
        for name in members:
            if f"{name}_observed" in sites and f"{name}_unobserved" in sites:
                raise ValueError(
                    f"{role} site {name!r} is split by obs_mask= into {name}_observed and {name}_unobserved, whose "
                    "joint density the model does not hold. Drop obs_mask= (data are simulated anyway), or use "
                    "handlers.mask to leave cells out of the data."
                )
            if name not in sites:
                raise ValueError(
                    f"{role} names {name!r}, which is not a site of the model{_close(name, random_sites)}. "
                    f"Its random sites are {_listed(random_sites)}."
                )
            kind = sites[name].kind
            if kind == "deterministic":
                _refuse_deterministic(role, name, random_sites)
            elif kind != "sample":
                raise ValueError(f"{role} names {name!r}, which is a {kind} and not a random site of the model.")


def _refuse_deterministic(role: str, name: str, random_sites: Sequence[str]) -> None:
    bases = [other for other in random_sites if other.startswith(f"{name}_")]
    if bases:
        raise ValueError(
            f"{role} site {name!r} is deterministic here, a function of {_listed(bases)}: if handlers.reparam did "
            "this, pass the model without it (its base site is another quantity unless location and scale are "
            "constants)."
        )
    if role == "latent":
        raise ValueError(
            f"latent site {name!r} is deterministic and has no density: name the random site(s) it is computed from."
        )


def noisy(names: Sequence[str]) -> None:
    """Refuse data that are a function of the latents."""
    if names:
        raise ValueError(
            f"data site(s) {_listed(names)} are a function of the latents without any noise, so that the mutual "
            "information is infinite (or that of the latents with themselves): give them noise with numpyro.sample, or "
            "with numpyro.prng_key() inside a simulator."
        )


def needs_prior(sites: Sequence[str], latent: Sequence[str], data: Sequence[str]) -> NoReturn:
    """Refuse latents whose marginal density is an integral, where it is needed."""
    if set(sites) & set(data):
        raise ValueError(
            f"latent {_listed(latent)} is drawn from data {_listed(sorted(set(sites) & set(data)))}, so that it has no "
            "prior that can be evaluated: swap `latent` and `data` (mutual information is symmetric)."
        )
    raise ValueError(
        f"p({', '.join(latent)}) is an integral over {_listed(sites)}, and this method evaluates it: name them in "
        f"latent too, as latent={[*latent, *sites]!r}, or use a method that needs joint samples only, as InfoNCE()."
    )


def given_needs_likelihood(given: Sequence[str], method: str) -> NoReturn:
    """Refuse conditioning on a site on average, for a method without densities."""
    raise ValueError(
        f"{method} bounds no conditional mutual information with given={list(given)!r} averaged over: use a method "
        "that knows the densities, AIS() or IWAE(), or hold the sites at values, given={name: value}."
    )


def needs_likelihood(names: Sequence[str], method: str) -> NoReturn:
    """Refuse data without a density, for a method that needs it."""
    raise ValueError(
        f"{method} evaluates the density of every site, but that of {_listed(names)} does not exist: the site is "
        "deterministic, or depends on random numbers that are no site of the model (from numpyro.prng_key(), a dropout "
        "layer, or a site that is hidden by handlers.block or renamed by handlers.scope around a scan). Draw them "
        "with numpyro.sample, or use a method that needs no likelihood: MINEAIS(), GIWAE(), InfoNCE()."
    )


def simulable(sites: Mapping[str, Site]) -> None:
    """Refuse models whose joint distribution cannot be simulated, or is not normalised."""
    for name, site in sites.items():
        if site.subsample and site.subsample[0] != site.subsample[1]:
            raise ValueError(
                f"plate {name!r} is subsampled ({site.subsample[0]} of {site.subsample[1]}): a subsampled likelihood "
                "is no density. Pass the model without subsample_size."
            )
    for name, site in sites.items():
        if site.flaw:
            raise ValueError(f"site {name!r} {site.flaw}")
        if site.scaled:
            raise ValueError(
                f"site {name!r} is scaled (handlers.scale or a subsampled plate): a scaled log-density is no density "
                "that can be simulated. Pass the model without the scale."
            )


def proper(name: str, fn: dist.Distribution) -> None:
    """Refuse a site that cannot be sampled; called inside the model, before it is."""
    if isinstance(unwrapped(fn), dist.ImproperUniform):
        raise _Refusal(
            f"site {name!r} is improper (ImproperUniform) and cannot be sampled: every prior must be a "
            "proper distribution, for example a wide Normal."
        )


def no_own_keys(names: Sequence[str]) -> None:
    """Refuse sites whose noise is the same in every simulation, or that of another site."""
    if names:
        raise ValueError(
            f"site(s) {_listed(names)} bring a key of their own (rng_key= of numpyro.sample, or handlers.seed inside "
            "the model), which is the same in every simulation or serves another site too: leave the keys to NumPyro."
        )


def value_shapes(sites: Mapping[str, Site]) -> None:
    """Refuse values that hold more than one draw of their site."""
    for name, site in sites.items():
        if site.observed and np.broadcast_shapes(site.value.shape, site.drawn) != site.drawn:
            raise ValueError(
                f"site {name!r} is given values of shape {site.value.shape}, but one draw of it has shape "
                f"{site.drawn}, and that is what would be simulated: put the site in a numpyro.plate of the right "
                "size, or expand its distribution."
            )


def parameters(
    sites: Mapping[str, Site], params: Mapping[str, Any], used: Collection[str], keyed: Collection[str]
) -> None:
    """Require a value for every `numpyro.param` that matters; modules that carry their values are fine."""
    declared = [name for name, site in sites.items() if site.kind == "param"]
    missing = [
        name
        for name in declared
        if name in used and name not in params and (not name.endswith("$params") or name in keyed)
    ]
    if missing:
        raise ValueError(
            f"parameter(s) {_listed(missing)} of the model have no value, only an initial one: pass the fitted values "
            f"as params={{{missing[0]!r}: ...}}, for example params=svi_result.params."
        )


def known_parameters(sites: Mapping[str, Site], params: Mapping[str, Any]) -> None:
    """Refuse values for what is no parameter of the model."""
    declared = [name for name, site in sites.items() if site.kind == "param"]
    unknown = [name for name in params if name not in sites or sites[name].kind not in ("param", "mutable")]
    if unknown:
        own = f"Its parameters are {_listed(declared)}: pass those only." if declared else "It has no parameters."
        raise ValueError(
            f"params holds {_listed(unknown)}, which the model has no numpyro.param for"
            f"{_close(unknown[0], declared)}. {own}"
        )


def drawn(fixed: Sequence[str]) -> None:
    """Refuse random sites that are the same in every simulation."""
    if fixed:
        raise ValueError(
            f"site(s) {_listed(fixed)} have the same value in every simulation: the model brings a key or values of "
            "its own (handlers.seed, handlers.substitute or handlers.replay around it, rng_key= of numpyro.sample), or "
            "has a scan inside handlers.scope, where NumPyro does not reach the sites. Pass it without; to hold a site "
            "at a value, use handlers.do or handlers.condition."
        )


def no_hidden_randomness(names: Sequence[str]) -> None:
    """Refuse random numbers that are no site of the model."""
    if names:
        raise ValueError(
            f"the distribution of site(s) {_listed(names)} depends on random numbers that are no site of the model "
            "(from numpyro.prng_key(), a dropout layer, or a site that is hidden by handlers.block or renamed by "
            "handlers.scope around a scan), so it has no density that can be evaluated: draw them with numpyro.sample."
        )


def no_silent_evidence(constants: Mapping[str, frozenset[str]]) -> None:
    """Refuse observed sites outside the groups that the model's latents influence."""
    for name, parents in constants.items():
        if parents:
            raise ValueError(
                f"site {name!r} is observed, is not in data, and depends on {_listed(sorted(parents))}: leaving it out "
                "would silently ignore what it says about them. Name it in data or in given, or call the model without its "
                "value."
            )


def mask(name: str, chosen_by: Collection[str], readers: Collection[str]) -> None:
    """Refuse masks that do not merely leave cells out of the data."""
    why = None
    if chosen_by:
        why = f"the mask depends on {_listed(sorted(chosen_by))}, so that which cells are missing says something too"
    elif readers:
        why = f"{_listed(sorted(readers))} is computed from its values, those that the mask leaves out among them"
    if why:
        raise ValueError(
            f"site {name!r} is masked (handlers.mask), and {why}: the masked model is no joint density. "
            "Use a mask that is fixed, on a site that nothing else depends on."
        )


def refuse_data_reading(arguments: Sequence[str], sites: Collection[str]) -> NoReturn:
    """Refuse a model whose data argument is read outside `obs=`."""
    raise ValueError(
        f"the model reads its data argument {_listed(arguments)} outside obs= (as an autoregression written on the "
        f"argument does), so {_listed(sorted(sites))} cannot be simulated from the model alone: the real data would "
        "leak in. Write the recursion with numpyro.contrib.control_flow.scan on the sampled values, or pass None if "
        "the model then simulates its data; a mask of missing values must be an argument of its own."
    )


def refuse_fixed(site: str, parent: str) -> NoReturn:
    """Refuse values of a given site that the model would have to be conditioned on backwards."""
    raise ValueError(
        f"given holds site {site!r} at a value, but its parent {parent!r} depends on the latent or the data: "
        f"simulating forwards from the value would not be conditioning on it. Average over it instead, as "
        f"given={site!r}, or name {parent!r} in given too."
    )


def refuse_sum(names: Sequence[str], why: str | None) -> NoReturn:
    """Refuse a sum over discrete sites that takes too much work."""
    raise ValueError(
        f"the sum over discrete site(s) {_listed(names)} takes more than {MOST_CHOICES:,} configurations, and their "
        f"elements cannot be summed one by one: {why}. Put what belongs together into one numpyro.plate, or name a "
        "site in given."
    )


def refuse_moving_support(name: str, summed: Sequence[str]) -> NoReturn:
    """Refuse a continuous site without coordinates that are the same for all values of a discrete one."""
    raise ValueError(
        f"the support of site {name!r} depends on discrete site(s) {_listed(summed)}, over which it would have to be "
        "summed: write it through a distribution with a fixed support, such as the support's lower bound plus a "
        "positive variable."
    )


def refuse_sampler(integrated: Sequence[Sequence[str]]) -> NoReturn:
    """Refuse a posterior sampler where there is not one posterior."""
    found = " and ".join(_listed(names) for names in integrated) or "none"
    raise ValueError(
        f"IR(posterior_sampler) serves one integral, but this mutual information has {len(integrated)} (over {found}): "
        "use IM() or CR(), which need no sampler."
    )


def integrable(name: str, site: Site) -> None:
    """Require a site that can be annealed, or summed."""
    if site.obstacle and site.choices is None:
        advice = (
            f" Its values cannot be listed either (at most {MOST_CHOICES:,}, not depending on other sites): bound it, "
            "as by a Categorical or Binomial distribution, or name it in given."
            if "is discrete" in site.obstacle
            else ""
        )
        raise ValueError(f"site {name!r}, which has to be integrated out, {site.obstacle}{advice}")
    

def annealable(name: str, site: Site) -> None:
    """Require a continuous site with a map onto the real line."""
    if site.obstacle:
        raise ValueError(f"latent {name!r} {site.obstacle}")


@contextmanager
def differentiable(names: Sequence[str]) -> Iterator[None]:
    """Say which latents a gradient was wanted for, where JAX has none."""
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"the log-density has no gradient with respect to {_listed(names)}, which annealing needs: "
            f"{type(error).__name__}: {error}"
        ) from error


def _listed(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _close(name: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(match) for match in matches)}?)" if matches else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
