"""NumPyro models whose mutual information is known, from 0.05 to 200 nats.

`TASKS` maps the name of every task with the conditionals of an ordinary model to a function which builds it
with default parameters, `GROUP_TASKS` those with nuisances, conditioning or discrete sites.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from numpyro_mi.tasks.channels import noisy_channel, uniform_noise
from numpyro_mi.tasks.conjugate import beta_binomial, dirichlet_multinomial, gamma_exponential, poisson_gamma
from numpyro_mi.tasks.decoders import linear10, linear200, linear_vae, mlp10
from numpyro_mi.tasks.gaussian import correlated_normal, hierarchical_normal, multivariate_normal
from numpyro_mi.tasks.graphs import (
    ab_test,
    feedback,
    linear_graph,
    normal_given,
    normal_given_child,
    normal_nuisance,
    one_direction,
    predictive,
)
from numpyro_mi.tasks.mixed import binary_channel, gaussian_mixture, hidden_markov, normal_gamma_regression
from numpyro_mi.tasks.task import Task
from numpyro_mi.tasks.transforms import Asinh, Cube, NormalCDF, Spiral
from numpyro_mi.tasks.warped import warped

__all__ = [
    "GROUP_TASKS",
    "TASKS",
    "Asinh",
    "Cube",
    "NormalCDF",
    "Spiral",
    "Task",
    "ab_test",
    "beta_binomial",
    "binary_channel",
    "correlated_normal",
    "correlated_normal_weak",
    "dirichlet_multinomial",
    "feedback",
    "gamma_exponential",
    "gaussian_mixture",
    "hidden_markov",
    "hierarchical_normal",
    "hierarchical_normal_given",
    "linear10",
    "linear200",
    "linear_graph",
    "linear_vae",
    "mlp10",
    "multivariate_normal",
    "noisy_channel",
    "normal_gamma_regression",
    "normal_given",
    "normal_given_child",
    "normal_nuisance",
    "one_direction",
    "poisson_gamma",
    "predictive",
    "uniform_noise",
    "warped",
]


def correlated_normal_weak() -> Task:
    """Two standard normal variables with a mutual information of 0.05 nats.

    `correlated_normal` with ``rho = sqrt(1 - exp(-0.1))``.

    Returns
    -------
    Task
        Scalar latent ``z``, scalar data ``x``.
    """
    task = correlated_normal(rho=math.sqrt(-math.expm1(-0.1)))
    return dataclasses.replace(task, name="correlated_normal_weak")


def hierarchical_normal_given() -> Task:
    """`hierarchical_normal` given its global mean: 4 log 2 nats.

    Returns
    -------
    Task
        As `hierarchical_normal`, conditioned on ``mu``.
    """
    return dataclasses.replace(
        hierarchical_normal(),
        name="hierarchical_normal_given",
        given="mu",
        mutual_information=4 * math.log(2.0),
        log_marginal=None,
        note="",
    )


GROUP_TASKS: dict[str, Callable[[], Task]] = {
    "normal_nuisance": normal_nuisance,
    "normal_given": normal_given,
    "normal_given_child": normal_given_child,
    "predictive": predictive,
    "ab_test": ab_test,
    "ab_test_random_effects": lambda: ab_test(random_effects=True),
    "one_direction": lambda: one_direction(math.pi / 6),
    "feedback": feedback,
    "hierarchical_normal_given": hierarchical_normal_given,
    "binary_channel": binary_channel,
    "mixture_labels": gaussian_mixture,
    "mixture_levels": lambda: gaussian_mixture(label_is_latent=False),
    "regression": normal_gamma_regression,
    "regression_with_precision": lambda: normal_gamma_regression(with_precision=True),
    "hidden_markov": hidden_markov,
}
"""Tasks whose likelihood is an integral or a sum itself, whose data are upstream, or that condition on a site."""

TASKS: dict[str, Callable[[], Task]] = {
    "correlated_normal": correlated_normal,
    "correlated_normal_weak": correlated_normal_weak,
    "multivariate_normal": multivariate_normal,
    "hierarchical_normal": hierarchical_normal,
    "linear_vae": linear_vae,
    "linear10": linear10,
    "linear200": linear200,
    "mlp10": mlp10,
    "gamma_exponential": gamma_exponential,
    "beta_binomial": beta_binomial,
    "dirichlet_multinomial": dirichlet_multinomial,
    "poisson_gamma": poisson_gamma,
    "noisy_channel": noisy_channel,
    "uniform_noise": uniform_noise,
    "correlated_normal_z_asinh": lambda: warped(correlated_normal(), Asinh(), "z"),
    "correlated_normal_x_asinh": lambda: warped(correlated_normal(), Asinh(), "x"),
    "correlated_normal_x_cube": lambda: warped(correlated_normal(), Cube(), "x"),
    "correlated_normal_z_normalcdf": lambda: warped(correlated_normal(), NormalCDF(), "z"),
    "multivariate_normal_x_spiral": lambda: warped(multivariate_normal(), Spiral(), "x"),
}
