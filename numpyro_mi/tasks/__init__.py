"""NumPyro models whose mutual information is known, from 0.05 to 200 nats.

`TASKS` maps the name of every task to a function which builds it with default parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from numpyro_mi.tasks.channels import noisy_channel, uniform_noise
from numpyro_mi.tasks.conjugate import beta_binomial, dirichlet_multinomial, gamma_exponential, poisson_gamma
from numpyro_mi.tasks.decoders import linear10, linear200, linear_vae, mlp10
from numpyro_mi.tasks.gaussian import correlated_normal, hierarchical_normal, multivariate_normal
from numpyro_mi.tasks.task import Task
from numpyro_mi.tasks.transforms import Asinh, Cube, NormalCDF, Spiral
from numpyro_mi.tasks.warped import warped

__all__ = [
    "TASKS",
    "Asinh",
    "Cube",
    "NormalCDF",
    "Spiral",
    "Task",
    "beta_binomial",
    "correlated_normal",
    "correlated_normal_weak",
    "dirichlet_multinomial",
    "gamma_exponential",
    "hierarchical_normal",
    "linear10",
    "linear200",
    "linear_vae",
    "mlp10",
    "multivariate_normal",
    "noisy_channel",
    "poisson_gamma",
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
