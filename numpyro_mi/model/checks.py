"""Bad input, refused with one clear error before anything compiles."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpyro.distributions as dist
from numpyro.distributions import biject_to
from numpyro.distributions.distribution import ExpandedDistribution, Independent, MaskedDistribution, Unit


class ModelError(ValueError):
    """The model itself raised while it was traced; the cause is chained."""


@contextmanager
def model_errors() -> Iterator[None]:
    """Keep the message of an exception raised by the model, and say where it came from."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError) and not str(error):
            hint = "a site has no sampler: every prior must be proper (no ImproperUniform)."
        elif isinstance(error, NotImplementedError) and "ImproperUniform" in str(error):
            hint = f"{error} Every prior must be proper: replace ImproperUniform by a distribution that can be sampled."
        else:
            hint = str(error)
        raise ModelError(f"the model raised {type(error).__name__} while it was traced: {hint}") from error


def group(role: str, names: str | Sequence[str]) -> tuple[str, ...]:
    """Normalise one group of site names."""
    if isinstance(names, str):
        names = (names,)
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{role} must be a site name or a sequence of site names, got {names!r}.")
    if not names or "" in names:
        raise ValueError(f"{role} is empty: name at least one site of the model.")
    if len(set(names)) < len(names):
        raise ValueError(f"{role} names a site twice: {tuple(names)}.")
    return tuple(names)


def disjoint(groups: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a site that is in both groups."""
    both = sorted(set(groups["latent"]) & set(groups["data"]))
    if both:
        raise ValueError(f"site(s) {_listed(both)} are in both latent and data: a site belongs to one group.")


def accepts(model: Callable, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that the model does not take."""
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"the model cannot be called with model_args={_short(args)} and model_kwargs={_short(dict(kwargs))}: "
            f"{error}. Its signature is {signature}; an argument that holds data may be any array of the right shape."
        ) from None


def parameters(trace: Mapping[str, dict], params: Mapping[str, Any], keyed: frozenset[str]) -> None:
    """Require a value for every `numpyro.param`; modules that carry their values are fine."""
    declared = [name for name, site in trace.items() if site["type"] == "param"]
    unknown = sorted(set(params) - set(declared))
    if unknown:
        raise ValueError(f"params holds {_listed(unknown)}, which is no parameter of the model{_close(unknown[0], declared)}.")
    missing = [name for name in declared if name not in params
               and (not name.endswith("$params") or name in keyed)]
    if missing:
        raise ValueError(
            f"parameter(s) {_listed(missing)} of the model have no value, only an initial one: pass the fitted values as "
            f"params={{{missing[0]!r}: ...}}, for example params=svi_result.params."
        )


def names(trace: Mapping[str, dict], groups: Mapping[str, tuple[str, ...]]) -> None:
    """Require every named site to be a random site of the model."""
    random_sites = [name for name, site in trace.items() if site["type"] == "sample" and not _auxiliary(site)]
    for role, members in groups.items():
        for name in members:
            site = trace.get(name)
            if f"{name}_observed" in trace and f"{name}_unobserved" in trace:
                raise ValueError(
                    f"{role} site {name!r} is split by obs_mask= into {name}_observed and {name}_unobserved, whose joint "
                    "density the model does not hold. Drop obs_mask= (data are simulated anyway), or use "
                    "handlers.mask to leave cells out of the data."
                )
            if site is None:
                raise ValueError(
                    f"{role} names {name!r}, which is not a site of the model{_close(name, random_sites)}. "
                    f"Its random sites are {_listed(random_sites)}."
                )
            if site["type"] == "deterministic":
                _refuse_deterministic(role, name, random_sites)
            if site["type"] != "sample":
                raise ValueError(f"{role} names {name!r}, which is a {site['type']} and not a random site of the model.")


def _refuse_deterministic(role: str, name: str, random_sites: Sequence[str]) -> NoReturn:
    bases = [other for other in random_sites if other.startswith(f"{name}_")]
    if bases:
        raise ValueError(
            f"{role} site {name!r} is deterministic here, a function of {_listed(bases)}: if handlers.reparam did this, "
            "pass the model without it (its base site is another quantity unless location and scale are constants)."
        )
    raise ValueError(
        f"{role} site {name!r} is deterministic and has no density: name the random site(s) it is computed from, "
        "or give it noise with numpyro.sample."
    )


def simulable(trace: Mapping[str, dict]) -> None:
    """Refuse models whose joint distribution cannot be simulated, or is not normalised."""
    for name, site in trace.items():
        if site["type"] == "plate" and len(site["args"]) > 1 and site["args"][1] not in (None, site["args"][0]):
            raise ValueError(
                f"plate {name!r} is subsampled ({site['args'][1]} of {site['args'][0]}): a subsampled likelihood is no "
                "density. Pass the model without subsample_size."
            )
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        fn = unwrapped(site["fn"])
        if isinstance(fn, Unit):
            raise ValueError(
                f"site {name!r} is a numpyro.factor: the joint density is then not normalised and cannot be simulated. "
                "Write the term as numpyro.sample(..., obs=...) of a distribution."
            )
        if isinstance(fn, dist.Delta):
            raise ValueError(
                f"site {name!r} has a Delta distribution, which has no density: use numpyro.deterministic for a value "
                "that is computed, or a distribution with a width."
            )
        if isinstance(fn, dist.ImproperUniform):
            raise ValueError(f"site {name!r} is improper (ImproperUniform): every prior must be a proper distribution.")
        if site["scale"] is not None:
            raise ValueError(
                f"site {name!r} is scaled (handlers.scale or a subsampled plate): a scaled log-density is no density "
                "that can be simulated. Pass the model without the scale."
            )


def no_silent_evidence(constants: Mapping[str, frozenset[str]]) -> None:
    """Refuse observed sites outside the groups that the model's latents influence."""
    for name, parents in constants.items():
        if parents:
            raise ValueError(
                f"site {name!r} is observed, is not in data, and depends on {_listed(sorted(parents))}: leaving it out "
                "would silently ignore what it says about them. Name it in data, or call the model without its value."
            )


def refuse_data_reading(arguments: Sequence[str], sites: Collection[str]) -> NoReturn:
    """Refuse a model whose data argument is read outside `obs=`."""
    raise ValueError(
        f"the model reads its data argument {_listed(arguments)} outside obs= (as an autoregression written on the "
        f"argument does), so {_listed(sorted(sites))} cannot be simulated from the model alone: the real data would leak "
        "in. Write the recursion with numpyro.contrib.control_flow.scan on the sampled values, or pass None if the model "
        "then simulates its data."
    )


def data_upstream(data_site: str, latent: Sequence[str]) -> NoReturn:
    """Refuse data that a latent to be annealed is drawn from."""
    raise ValueError(
        f"data site {data_site!r} is an ancestor of latent {_listed(latent)}, which would have to be annealed: swap latent "
        "and data (mutual information is symmetric)."
    )


def needs_integral(sites: Sequence[str], data: Sequence[str], latent: Sequence[str]) -> NoReturn:
    """Refuse, for now, a likelihood that is an integral over other latents."""
    raise ValueError(
        f"p({', '.join(data)} | {', '.join(latent)}) is an integral over {_listed(sites)}, which is not supported yet: "
        f"name them in latent too (the information about all of them together), as latent={[*latent, *sites]!r}."
    )


def annealable(name: str, fn: dist.Distribution) -> None:
    """Require a continuous latent with a map onto the real line."""
    inner = unwrapped(fn)
    if _masked(fn):
        raise ValueError(f"latent {name!r} is masked (handlers.mask): a masked prior is not the one it is drawn from.")
    if "ZeroInflated" in type(inner).__name__ or "Hurdle" in type(inner).__name__:
        raise ValueError(
            f"latent {name!r} has a point mass ({type(inner).__name__}), so it cannot be moved along a gradient. "
            "It is fine as data."
        )
    if fn.support is not None and fn.support.is_discrete:
        raise ValueError(
            f"latent {name!r} is discrete ({type(inner).__name__}), so it cannot be annealed by gradients, and exact sums "
            "over discrete latents are not supported yet."
        )
    try:
        biject_to(fn.support)
    except NotImplementedError:
        raise ValueError(
            f"latent {name!r} ({type(inner).__name__}) has support {fn.support}, which NumPyro cannot map to the real "
            "line (no biject_to): write it through a distribution that can be."
        ) from None


def unwrapped(fn: dist.Distribution) -> dist.Distribution:
    """The distribution inside expand, to_event and mask."""
    while isinstance(fn, ExpandedDistribution | Independent | MaskedDistribution):
        fn = fn.base_dist
    return fn


def _masked(fn: dist.Distribution) -> bool:
    while isinstance(fn, ExpandedDistribution | Independent | MaskedDistribution):
        if isinstance(fn, MaskedDistribution):
            return True
        fn = fn.base_dist
    return False


def _auxiliary(site: dict) -> bool:
    return isinstance(unwrapped(site["fn"]), Unit)


def _listed(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _close(name: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(match) for match in matches)}?)" if matches else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."


def finite_at_own_draws(counts: Mapping[tuple[str, str], int], num_draws: int) -> None:
    """Refuse a model whose own draws have no finite density or no finite unconstrained value.

    Exact draws at the edge of a support may be infinite in float32. Up to one in a thousand they
    are scored as what they are, an infinite term; above that nothing finite can come out.
    """
    for (what, name), bad in counts.items():
        if bad > num_draws / 1000:
            raise ValueError(
                f"the {what} of site {name!r} is not finite at {bad} of {num_draws} of the model's own draws (above 1 in "
                "1,000): a draw at the edge of the support, or parameters out of range. Use jax.enable_x64, a support "
                "farther from its edge, or check the distribution's parameters."
            )


def legitimate_at_prior_draws(log_probs: Mapping[str, Any]) -> None:
    """Refuse NaN or +inf at prior draws; a likelihood of zero is legitimate."""
    for name, values in log_probs.items():
        bad = int(sum(value != value or value == float("inf") for value in values.tolist()))
        if bad:
            raise ValueError(
                f"the log-density of site {name!r} is NaN or +inf at {bad} of {len(values)} prior draws: check the "
                "parameters of its distribution over the whole range of the prior."
            )
