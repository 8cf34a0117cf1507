"""Jointly normal models in which some sites are nuisances or given: ratios of determinants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from numpyro_mi.tasks.task import Task

Groups = Mapping[str, Sequence[int]]


def linear_graph(
    name: str,
    weights: Mapping[str, Mapping[str, float]],
    latent: str | tuple[str, ...],
    data: str | tuple[str, ...],
    given: str | tuple[str, ...] = (),
    scales: Mapping[str, float] | None = None,
) -> Task:
    """Scalar sites, each normal around a linear combination of earlier ones.

    Parameters
    ----------
    name : str
        Name of the task.
    weights : dict
        For each site, in model order, the weight of each of its parents.
    latent, data, given : str or tuple of str
        The groups; all other sites are nuisances.
    scales : dict, optional
        Standard deviations of the sites given their parents; 1 where there is none.

    Returns
    -------
    Task
        With its pointwise mutual information.
    """
    sites = list(weights)
    scale = {site: (scales or {}).get(site, 1.0) for site in sites}
    coefficients = np.array([[weights[site].get(parent, 0.0) for parent in sites] for site in sites])
    root = np.linalg.solve(np.eye(len(sites)) - coefficients, np.diag([scale[site] for site in sites]))

    def model(x=None):
        values: dict[str, Any] = {}
        for site in sites:
            loc = sum((weight * values[parent] for parent, weight in weights[site].items()), 0.0)
            values[site] = numpyro.sample(site, dist.Normal(loc, scale[site]), obs=x if site == "x" else None)

    def columns(names: str | tuple[str, ...]) -> list[int]:
        return [sites.index(site) for site in ((names,) if isinstance(names, str) else names)]

    groups = {"latent": columns(latent), "data": columns(data), "given": columns(given)}
    return Task(
        name=name,
        model=model,
        latent=latent,
        data=data,
        given=given,
        mutual_information=_information(root @ root.T, groups),
        pointwise=lambda values: _pointwise(root @ root.T, groups, jnp.stack([values[site] for site in sites])),
    )


def normal_nuisance() -> Task:
    """A nuisance above the latent and another beside it: `linear_graph` with u -> z -> x <- w."""
    weights = {"u": {}, "z": {"u": 1.0}, "w": {}, "x": {"z": 1.0, "w": 0.8, "u": 0.5}}
    return linear_graph("normal_nuisance", weights, "z", "x", scales={"x": 0.5})


def normal_given() -> Task:
    """Conditioned on a site upstream, with a nuisance: `linear_graph` with c -> z -> x <- c and w -> x."""
    weights = {"c": {}, "z": {"c": 1.0}, "w": {}, "x": {"z": 1.0, "w": 1.0, "c": -1.0}}
    return linear_graph("normal_given", weights, "z", "x", "c", scales={"x": 0.5})


def normal_given_child() -> Task:
    """Conditioned on a site that the latent is upstream of: `linear_graph` with c <- z -> x."""
    weights = {"z": {}, "c": {"z": 1.0}, "x": {"z": 2.0}}
    return linear_graph("normal_given_child", weights, "z", "x", "c")


def predictive() -> Task:
    """What old data say of new ones: `linear_graph` with z -> x and z -> new, z a nuisance."""
    return linear_graph("predictive", {"z": {}, "x": {"z": 2.0}, "new": {"z": 1.0}}, "new", "x")


def ab_test(num_first: int = 5, num_people: int = 10, random_effects: bool = False) -> Task:
    """An A/B test: what the responses of two groups of people say of the effects of the two treatments.

    The model is ``w ~ Normal(0, (10, 1/0.55))`` and ``x_i ~ Normal(w_1 + w_2 [i >= num_first] + b_i, 1)``, with
    ``b_i ~ Normal(0, 1)`` a nuisance if `random_effects`, else 0.

    Parameters
    ----------
    num_first, num_people : int
        People in the first group, and in both.
    random_effects : bool
        Whether each person has an effect of their own.

    Returns
    -------
    Task
        Latent ``w`` of shape (2,), data ``x`` of shape (num_people,).

    References
    ----------
    The design of this kind is a standard example of Bayesian experimental design, as in Foster et al.,
    "Variational Bayesian optimal experimental design", NeurIPS 2019.
    """
    if not 0 <= num_first <= num_people:
        raise ValueError(f"num_first must lie between 0 and num_people={num_people}, got {num_first}.")
    scales = np.array([10.0, 1 / 0.55])
    second = np.arange(num_people) >= num_first
    design = np.stack([~second, second], axis=1).astype(float)

    def model(x=None):
        w = numpyro.sample("w", dist.Normal(jnp.zeros(2), scales).to_event(1))
        with numpyro.plate("people", num_people):
            b = numpyro.sample("b", dist.Normal(0.0, 1.0)) if random_effects else 0.0
            numpyro.sample("x", dist.Normal(jnp.matmul(design, w, precision="highest") + b, 1.0), obs=x)

    noise = np.eye(num_people) * (2.0 if random_effects else 1.0)
    prior = design * scales
    cross = prior * scales
    covariance = np.block([[np.diag(scales**2), cross.T], [cross, prior @ prior.T + noise]])
    groups = {"latent": [0, 1], "data": list(range(2, 2 + num_people)), "given": []}
    return Task(
        name="ab_test_random_effects" if random_effects else "ab_test",
        model=model,
        latent="w",
        data="x",
        mutual_information=_information(covariance, groups),
        pointwise=lambda values: _pointwise(covariance, groups, jnp.concatenate([values["w"], values["x"]])),
    )


def one_direction(angle: float = 0.0) -> Task:
    """One observation of two coefficients in the direction `angle`, of which the second is a nuisance.

    The model is ``w1 ~ Normal(0, 10)``, ``w2 ~ Normal(0, 2)``, ``x ~ Normal(w1 cos a + w2 sin a, 1)``.

    Parameters
    ----------
    angle : float
        In radians.

    Returns
    -------
    Task
        Scalar latent ``w1``, scalar data ``x``.
    """
    weights = {"w1": {}, "w2": {}, "x": {"w1": float(np.cos(angle)), "w2": float(np.sin(angle))}}
    return linear_graph("one_direction", weights, "w1", "x", scales={"w1": 10.0, "w2": 2.0})


def feedback(num_steps: int = 2) -> Task:
    """A state that depends on the data before it, in `scan`: ``h_t ~ Normal(x_{t-1}, 1)``, ``x_t ~ Normal(h_t, 1)``.

    Parameters
    ----------
    num_steps : int
        Length of the sequence.

    Returns
    -------
    Task
        Latent ``h`` and data ``x``, both of shape (num_steps,).
    """

    def model(x=None):
        def step(before, value):
            h = numpyro.sample("h", dist.Normal(before, 1.0))
            now = numpyro.sample("x", dist.Normal(h, 1.0), obs=value)
            return now, None

        scan(step, 0.0, x, length=num_steps)

    # In the order h_1, x_1, h_2, x_2, ... each value is the one before it and a step.
    root = np.tril(np.ones((2 * num_steps, 2 * num_steps)))
    groups = {"latent": list(range(0, 2 * num_steps, 2)), "data": list(range(1, 2 * num_steps, 2)), "given": []}
    return Task(
        name="feedback",
        model=model,
        latent="h",
        data="x",
        mutual_information=_information(root @ root.T, groups),
        pointwise=lambda values: _pointwise(
            root @ root.T, groups, jnp.stack([values["h"], values["x"]], axis=1).reshape(-1)
        ),
    )


_SIGNS = ((1, ("latent", "data", "given")), (1, ("given",)), (-1, ("latent", "given")), (-1, ("data", "given")))


def _information(covariance: np.ndarray, groups: Groups) -> float:
    """I(latent; data | given) of a normal vector, nats."""
    total = 0.0
    for sign, names in _SIGNS:
        columns = [i for name in names for i in groups[name]]
        total -= sign * 0.5 * np.linalg.slogdet(covariance[np.ix_(columns, columns)])[1]
    return float(total)


def _pointwise(covariance: np.ndarray, groups: Groups, value: Any) -> Any:
    """Its pointwise counterpart at one value of the vector."""
    total = jnp.zeros(())
    for sign, names in _SIGNS:
        columns = [i for name in names for i in groups[name]]
        if columns:
            part = jnp.asarray(covariance[np.ix_(columns, columns)])
            total += sign * dist.MultivariateNormal(jnp.zeros(len(columns)), part).log_prob(value[jnp.array(columns)])
    return total
