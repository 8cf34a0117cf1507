"""Replace one site of a task by a bijection of it: the mutual information stays the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform
from numpyro.infer.reparam import Reparam

from numpyro_mi.tasks.task import Task


class _WarpReparam(Reparam):
    """Sample ``f"{name}_warped"`` from the transformed distribution and go on with the value before it."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def __call__(self, name, fn, obs):
        """Return no distribution, which makes the old site deterministic, and the value for it."""
        domain = self.transform.domain
        if _coordinate(domain) != _coordinate(fn.support) or domain.event_dim > fn.event_dim:
            raise ValueError(
                f"{type(self.transform).__name__} maps from {domain} (event dimension {domain.event_dim}), "
                f"but site {name!r} has support {fn.support} (event dimension {fn.event_dim}); "
                "choose a transform whose domain is the support of the site."
            )
        warped_fn = dist.TransformedDistribution(fn, self.transform)
        warped_obs = None if obs is None else self.transform(jnp.asarray(obs))
        value = numpyro.sample(f"{name}_warped", warped_fn, obs=warped_obs)
        return None, self.transform.inv(value)


def _coordinate(constraint: constraints.Constraint) -> constraints.Constraint:
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint


def _replace_name(names: str | tuple[str, ...], old: str, new: str) -> str | tuple[str, ...]:
    if isinstance(names, str):
        return new if names == old else names
    return tuple(new if name == old else name for name in names)


def warped(task: Task, transform: Transform, site: str) -> Task:
    """Return a task in which a site is replaced by a bijection of it.

    The new model samples ``y = transform(v)`` at the site ``f"{site}_warped"``, where ``v`` is the value of
    the old site, and goes on with ``v``, which stays in the trace as a deterministic site. Mutual information
    does not change under a bijection of the latent or of the data.

    Parameters
    ----------
    task : Task
        Task to start from.
    transform : numpyro.distributions.transforms.Transform
        Bijection whose domain is the support of the site.
    site : str
        Name of a latent or data site of the task. If its model is called with an observed value for this
        site, that value is in the old coordinates.

    Returns
    -------
    Task
        Task with the same mutual information in nats. `log_marginal` takes the new data values and, for a
        warped data site, contains the log determinant of the transform.

    References
    ----------
    Czyz, Grabowski, Vogt, Beerenwinkel and Marx (2023), "Beyond Normal: On the Evaluation of Mutual
    Information Estimators".
    """
    new = f"{site}_warped"
    latent = _replace_name(task.latent, site, new)
    data = _replace_name(task.data, site, new)
    if (latent, data) == (task.latent, task.data):
        raise ValueError(
            f"site {site!r} is not a latent ({task.latent!r}) or data ({task.data!r}) site of {task.name!r}."
        )
    log_marginal = old_log_marginal = task.log_marginal
    if data != task.data and old_log_marginal is not None:

        def log_marginal(values: Mapping[str, Any]):
            y = values[new]
            value = transform.inv(y)
            old_values = {name: v for name, v in values.items() if name != new} | {site: value}
            return old_log_marginal(old_values) - jnp.sum(transform.log_abs_det_jacobian(value, y))

    return dataclasses.replace(
        task,
        name=f"{task.name}_{site}_{type(transform).__name__.lower()}",
        model=handlers.reparam(task.model, config={site: _WarpReparam(transform)}),
        latent=latent,
        data=data,
        log_marginal=log_marginal,
    )
