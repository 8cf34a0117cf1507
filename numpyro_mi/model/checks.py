"""Bad input, refused with one clear error before anything compiles."""

import difflib
import itertools
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_mi.model.sites import Site, unwrapped


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
                    f"{role} names {name!r}, which is not a site of the model{close(name, random_sites)}. "
                    f"Its random sites are {listed(random_sites)}."
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
            f"{role} site {name!r} is deterministic here, a function of {listed(bases)}: if handlers.reparam did "
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


def mask(name: str, chosen_by: Collection[str], readers: Collection[str]) -> None:
    """Refuse masks that do not merely leave cells out of the data."""
    why = None
    if chosen_by:
        why = f"the mask depends on {listed(sorted(chosen_by))}, so that which cells are missing says something too"
    elif readers:
        why = f"{listed(sorted(readers))} is computed from its values, those that the mask leaves out among them"
    if why:
        raise ValueError(
            f"site {name!r} is masked (handlers.mask), and {why}: the masked model is no joint density. "
            "Use a mask that is fixed, on a site that nothing else depends on."
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
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
