"""Bad input, refused with one clear error before anything compiles."""

import difflib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from numpyro_mi.model.joint.told import plain, told
from numpyro_mi.model.sites.site import Site, unwrapped


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
        raise ModelError(f"the model raised {type(error).__name__} while it was traced: {told(error)}") from error


def group(role: str, names: str | Sequence[str], optional: bool = False) -> tuple[str, ...]:
    """Normalise one group of site names."""
    if optional and isinstance(names, Sequence) and not names and not isinstance(names, str):
        return ()
    if isinstance(names, str):
        names = (names,)
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{role} must be a site name or a sequence of site names, got {short(names)}.")
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
            raise TypeError(f"given must map site names to values, got the key {short(name)}.")
        try:
            found[name] = jnp.asarray(value)
        except (TypeError, ValueError):
            raise TypeError(f"given holds site {name!r} at {short(value)}, which is no array.") from None
    return found


def inside(name: str, value: jax.Array, outside: np.ndarray) -> None:
    """Refuse a value that is held outside the support of its site; called inside the model, before it is used."""
    if outside.any():
        entries = f" ({int(outside.sum()):,} of {outside.size:,} entries)" if outside.size > 1 else ""
        raise _Refusal(
            f"given holds site {name!r} at {short(np.asarray(value).tolist())}, which is outside the support of its "
            f"distribution in the model{entries}: pass a value that the site can have."
        )


def disjoint(groups: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a site that is in two groups."""
    for first, second in itertools.combinations(groups, 2):
        both = sorted(set(groups[first]) & set(groups[second]))
        if both:
            raise ValueError(f"site(s) {listed(both)} are in both {first} and {second}: a site belongs to one group.")


def names(
    sites: Mapping[str, Site],
    groups: Mapping[str, tuple[str, ...]],
    sources: Callable[[str], Sequence[str]] = lambda name: (),
) -> None:
    """Require every named site to be a random site of the model.

    `sources` tells the random sites that a deterministic one is computed from.
    """
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
                    f"{role} names {name!r}, which is not a site of the model{close(name, random_sites)}. "
                    f"Its random sites are {listed(random_sites)}."
                )
            kind = sites[name].kind
            if kind == "deterministic":
                _refuse_deterministic(role, name, random_sites, sources)
            elif kind != "sample":
                raise ValueError(f"{role} names {name!r}, which is a {kind} and not a random site of the model.")


def _refuse_deterministic(
    role: str, name: str, random_sites: Sequence[str], sources: Callable[[str], Sequence[str]]
) -> None:
    bases = [other for other in random_sites if other.startswith(f"{name}_")]
    if bases:
        used = list(sources(name)) or bases
        more = "together, for the information of all of them" if len(used) > 1 else "instead"
        raise ValueError(
            f"{role} site {name!r} is deterministic here, a function of {listed(used)}: if handlers.reparam did "
            f"this, pass the model without it, or name {listed(used)} {more} (alone its base site is another quantity "
            "unless location and scale are constants)."
        )
    if role == "latent":
        used = list(sources(name))
        what = f"it is computed from, {listed(used)}" if used else "it is computed from"
        raise ValueError(f"latent site {name!r} is deterministic and has no density: name the random site(s) {what}.")


def noisy(names: Sequence[str]) -> None:
    """Refuse data that are a function of the latents."""
    if names:
        raise ValueError(
            f"data site(s) {listed(names)} are a function of the latents without any noise, so that the mutual "
            "information is infinite (or that of the latents with themselves): give them noise with numpyro.sample, or "
            "with numpyro.prng_key() inside a simulator."
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


def drawable(name: str, fn: dist.Distribution) -> None:
    """Refuse a site that cannot be sampled; called inside the model, before it is."""
    base = unwrapped(fn)
    while isinstance(base, dist.TransformedDistribution):
        base = unwrapped(base.base_dist)
    if isinstance(base, dist.ImproperUniform):
        raise _Refusal(f"site {name!r} is improper (ImproperUniform) and cannot be sampled: {_instead(name, base)}")
    if type(base).sample is dist.Distribution.sample:
        raise _Refusal(
            f"site {name!r} has a {type(base).__name__} distribution, which has no `sample` method and cannot be "
            "simulated: give its class sample(key, sample_shape=()), whose draws follow its log_prob."
        )


def forwards(names: Sequence[str]) -> None:
    """Refuse a scan backwards over sites; called inside the model."""
    raise _Refusal(
        f"site(s) {listed(names)} are inside scan(..., reverse=True), where NumPyro does not put held values in their "
        "places: scan forwards over the flipped sequence (jnp.flip), and flip what comes out."
    )


def repeatable(names: Sequence[str]) -> None:
    """Refuse a model that is another one at every call."""
    if names:
        raise ValueError(
            f"site(s) {listed(names)} are computed with other numbers every time the model is called: the model draws "
            "with numpy.random or random, or changes state of its own. Draw with numpyro.sample, or make such numbers "
            "once, outside the model, and pass them as arguments."
        )


def _instead(name: str, fn: dist.ImproperUniform) -> str:
    """What to write instead of an improper distribution."""
    if name.endswith("_unwrapped"):
        return (
            f"if handlers.reparam with CircularReparam made it of site {name.removesuffix('_unwrapped')!r}, pass the "
            "model without it, for circular sites need none here."
        )
    support = fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    size = fn.event_shape[-1] if fn.event_shape else 1
    ordered = f"dist.Normal(0, 1).expand([{size}]).to_event(1), dist.transforms.OrderedTransform()"
    examples = (
        (constraints.ordered_vector, f"dist.TransformedDistribution({ordered})"),
        (constraints.simplex, f"dist.Dirichlet(jnp.ones({size}))"),
        (constraints.positive, "dist.LogNormal(0, 2)"),
        (constraints.nonnegative, "dist.HalfNormal(10)"),
        (constraints.unit_interval, "dist.Uniform(0, 1)"),
        (constraints.circular, "dist.Uniform(-jnp.pi, jnp.pi)"),
        (constraints.corr_cholesky, f"dist.LKJCholesky({size})"),
        (constraints.corr_matrix, f"dist.LKJ({size})"),
        (
            constraints.real,
            "a wide Normal" + f", dist.Normal(0, 10).expand([{size}]).to_event(1)" * bool(fn.event_shape),
        ),
    )
    example = next((text for known, text in examples if support is known), None)
    what = f"on the same support, for example {example}" if example else "on the same support"
    return f"every prior must be a proper distribution {what}."


def no_own_keys(names: Sequence[str]) -> None:
    """Refuse sites whose noise is the same in every simulation, or that of another site."""
    if names:
        raise ValueError(
            f"site(s) {listed(names)} bring a key of their own (rng_key= of numpyro.sample, or handlers.seed inside "
            "the model), which is the same in every simulation or serves another site too: leave the keys to NumPyro."
        )


def value_shapes(sites: Mapping[str, Site]) -> None:
    """Refuse values that hold more than one draw of their site."""
    for name, site in sites.items():
        if site.observed and not _broadcasts(site.value.shape, site.drawn):
            raise ValueError(
                f"site {name!r} is given values of shape {site.value.shape}, but one draw of it has shape "
                f"{site.drawn}, and that is what would be simulated: put the site in a numpyro.plate of the right "
                "size, or expand its distribution."
            )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def drawn(fixed: Sequence[str]) -> None:
    """Refuse random sites that are the same in every simulation."""
    if fixed:
        raise ValueError(
            f"site(s) {listed(fixed)} have the same value in every simulation: the model brings a key or values of "
            "its own (handlers.seed, handlers.substitute or handlers.replay around it, rng_key= of numpyro.sample), or "
            "has a scan inside handlers.scope, where NumPyro does not reach the sites. Pass it without; to hold a site "
            "at a value, use handlers.do or handlers.condition."
        )


def no_hidden_randomness(names: Sequence[str]) -> None:
    """Refuse random numbers that are no site of the model."""
    if names:
        raise ValueError(
            f"the distribution of site(s) {listed(names)} depends on random numbers that are no site of the model "
            "(from numpyro.prng_key(), a dropout layer, or a site that is hidden by handlers.block or renamed by "
            "handlers.scope around a scan), so it has no density that can be evaluated: draw them with numpyro.sample."
        )


def no_silent_evidence(constants: Mapping[str, frozenset[str]]) -> None:
    """Refuse observed sites outside the groups that the model's latents influence."""
    for name, parents in constants.items():
        if parents:
            raise ValueError(
                f"site {name!r} is observed, is not in data, and depends on {listed(sorted(parents))}: leaving it out "
                "would silently ignore what it says about them. Name it in data or in given, or call the model "
                "without its value."
            )


def mask(name: str, choosers: Mapping[str, str], readers: Collection[str]) -> None:
    """Refuse masks that do not merely leave cells out of the data.

    `choosers` are the sites that the mask depends on and must not, each with what it is.
    """
    if readers:
        why = f"{listed(sorted(readers))} is computed from its values, those that the mask leaves out among them"
        advice = "on a site that nothing else depends on"
    elif choosers:
        which = ", ".join(f"{other!r}, {role}" for other, role in sorted(choosers.items()))
        why = f"the mask depends on {which}, so that which cells are missing says something too"
        advice = f"or one that depends on sites of the same group as {name!r}, or on sites in given, alone"
    else:
        return
    raise ValueError(
        f"site {name!r} is masked (handlers.mask), and {why}: the masked model is no joint density. "
        f"Use a mask that is fixed, {advice}."
    )


def listed(names: Collection[str]) -> str:
    """Names in quotes."""
    return ", ".join(repr(name) for name in names)


def close(name: str, known: Sequence[str]) -> str:
    """A question that names the known names nearest to a wrong one, or nothing."""
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(match) for match in matches)}?)" if matches else ""


def short(value: Any) -> str:
    """A value as text of at most 80 characters."""
    text = plain(repr(value))
    return text if len(text) < 80 else text[:77] + "..."


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
            f"the log-density has no gradient with respect to {listed(names)}, which annealing needs: "
            f"{type(error).__name__}: {told(error)}"
        ) from error


def needs_likelihood(names: Sequence[str], method: str) -> NoReturn:
    """Refuse data without a density, for a method that needs it."""
    raise ValueError(
        f"{method} evaluates the density of every site, but that of {listed(names)} does not exist: the site is "
        "deterministic, has a distribution without log_prob, or depends on random numbers that are no site of the "
        "model (from numpyro.prng_key(), a dropout layer, or a site that is hidden by handlers.block or renamed by "
        "handlers.scope around a scan). Draw them with numpyro.sample, or use a method that needs no likelihood, which "
        "mi_bounds, compare and expected_information_gain take: MINEAIS(), GIWAE(), InfoNCE()."
    )


def given_needs_likelihood(given: Sequence[str], method: str) -> NoReturn:
    """Refuse conditioning on a site on average, for a method without densities."""
    raise ValueError(
        f"{method} bounds no conditional mutual information with given={list(given)!r} averaged over: use a method "
        "that knows the densities, AIS() or IWAE(), or hold the sites at values, given={name: value}."
    )
