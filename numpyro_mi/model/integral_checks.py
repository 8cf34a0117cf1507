"""What a method cannot integrate, sum or evaluate, refused before anything compiles."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from numpyro_mi.model.checks import ModelError, listed
from numpyro_mi.model.sites import MOST_CHOICES, Site
from numpyro_mi.model.told import told


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
        f"the sum over discrete site(s) {listed(names)} takes more than {MOST_CHOICES:,} configurations, and their "
        f"elements cannot be summed one by one: {why}. Put what belongs together into one numpyro.plate, or name a "
        "site in given."
    )


def refuse_moving_support(name: str, summed: Sequence[str]) -> NoReturn:
    """Refuse a continuous site without coordinates that are the same for all values of a discrete one."""
    raise ValueError(
        f"the support of site {name!r} depends on discrete site(s) {listed(summed)}, over which it would have to be "
        "summed: write it through a distribution with a fixed support, such as the support's lower bound plus a "
        "positive variable."
    )


def refuse_sampler(integrated: Sequence[Sequence[str]]) -> NoReturn:
    """Refuse a posterior sampler where there is not one posterior."""
    found = " and ".join(listed(names) for names in integrated) or "none"
    raise ValueError(
        f"IR(posterior_sampler) serves one integral, but this mutual information has {len(integrated)} (over {found}): "
        "use IM() or CR(), which need no sampler."
    )


def refuse_sampler_on_observed() -> NoReturn:
    """Refuse the independent reverse scheme where there is no exact draw to start from."""
    raise ValueError(
        "IR(posterior_sampler) starts from exact draws, which observed data have none of: use IM() or CR(), or call "
        "the model without its data."
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
            f"the log-density has no gradient with respect to {listed(names)}, which annealing needs: "
            f"{type(error).__name__}: {told(error)}"
        ) from error


def needs_prior(sites: Sequence[str], latent: Sequence[str], data: Sequence[str]) -> NoReturn:
    """Refuse latents whose marginal density is an integral, where it is needed."""
    if set(sites) & set(data):
        raise ValueError(
            f"latent {listed(latent)} is drawn from data {listed(sorted(set(sites) & set(data)))}, so that it has no "
            "prior that can be evaluated: swap `latent` and `data` (mutual information is symmetric)."
        )
    raise ValueError(
        f"p({', '.join(latent)}) is an integral over {listed(sites)}, and this method evaluates it: name them in "
        f"latent too, as latent={[*latent, *sites]!r}, or use a method that needs joint samples only, as InfoNCE()."
    )


def evaluable(missing: Sequence[str]) -> None:
    """Refuse latents without a density, for a method that evaluates it."""
    if missing:
        raise ValueError(
            f"latent {listed(missing)} has no density that can be evaluated (its distribution has no log_prob, or "
            "depends on random numbers that are no site), and this method evaluates it: use InfoNCE(), which needs "
            "joint samples only."
        )


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
