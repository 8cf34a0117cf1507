"""Terms of a lower bound and their gradients with respect to the design, block by block."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.annealing.chains import make_path
from numpyro_mi.annealing.start import ModelIntegral
from numpyro_mi.draws.keys import Role, role_key
from numpyro_mi.evidence.importance import ImportanceMethod
from numpyro_mi.guides.base import FittedGuide
from numpyro_mi.model.integrals.decomposition import Decomposition
from numpyro_mi.model.integrals.densities import flatten, stage_model
from numpyro_mi.model.staging import Staged, stage
from numpyro_mi.model.views.pathwise import AtDesign, differentiable_in_design


def stage_gradient(
    at_design: AtDesign,
    design: Any,
    decomposition: Decomposition,
    method: ImportanceMethod,
    guide: FittedGuide | None,
) -> Staged:
    """`(design, keys) -> (term, gradient)` of one joint draw, as a program that other designs share."""
    path = make_path(method.betas(), np.empty(0), np.empty(0))  # without transitions

    def term(design, keys):
        joint_key, condition_key, chains_key = keys
        staged = stage_model(at_design(design), decomposition, gradients=False)
        draw, own = staged.draw(joint_key), staged.integrals[0]
        integral = ModelIntegral(own.integrand, guide)
        held = {name: draw.values[name] for name in own.held}
        conditional = integral.condition(held, condition_key)
        exact = integral.coordinates(held, conditional, flatten(draw.points[0]))
        evidence = method.evidence(integral.target(held, conditional), path, exact, chains_key)
        return sum(sign * draw.log_probs[name] for sign, name in decomposition.exact) - evidence.eubo

    with differentiable_in_design():
        return stage(jax.value_and_grad(term), design, (jax.random.key(0),) * 3)


def score_gradients(
    function: Staged, design: Any, key: jax.Array, num_samples: int, size: int
) -> tuple[np.ndarray, Any]:
    """Terms and their gradients, with the random numbers that `mi_bounds` takes."""
    chains = [jax.random.fold_in(role_key(key, role), 0) for role in (Role.CONDITION, Role.CHAINS)]
    keys = (role_key(key, Role.JOINT), *chains)
    blocks = [jax.device_get(_block(function, design, keys, start, size)) for start in range(0, num_samples, size)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_samples].astype(np.float64), *blocks)


@partial(jax.jit, static_argnames=("size",))
def _block(function, design, keys, start, size):
    def one(index):
        return function(design, tuple(jax.random.fold_in(key, index) for key in keys))

    return jax.vmap(one)(start + jnp.arange(size))


def means(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over draws and their standard errors, which are infinite where a term is not finite."""
    with np.errstate(invalid="ignore"):
        value, error = terms.mean(0), terms.std(0, ddof=1) / np.sqrt(len(terms))
    return value, np.where(np.isfinite(error), error, np.inf)
