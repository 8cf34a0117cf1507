"""A generic check of how a model is simulated and scored, against NumPyro's own utilities."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import compute_log_probs, log_density, potential_energy

from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model

NUM_DRAWS = 200


class Case(NamedTuple):
    """A model, how it is called, and mean and standard deviation of some of its sites."""

    model: Any
    moments: dict = {}
    latent: Any = "z"
    data: Any = "x"
    args: tuple = ()
    kwargs: dict = {}
    params: Any = None


def staged(case):
    joint = joint_model(case.model, case.latent, case.data, case.args, case.kwargs, case.params)
    decomposition = decompose(joint)
    return joint, decomposition, stage_model(joint, decomposition)


def check(case, rtol=1e-9, atol=1e-8):
    """Compare simulations and densities with NumPyro's own, at draws of target and base."""
    joint, decomposition, model = staged(case)
    assert decomposition.integrals
    given = handlers.seed(handlers.substitute(case.model, data=case.params or {}), 0)

    def one(key):
        draw = model.draw(key)
        everything = handlers.condition(given, data=draw.values)
        by_site, trace = compute_log_probs(everything, case.args, case.kwargs, {})
        total = log_density(everything, case.args, case.kwargs, {})[0]
        pairs = {f"draw {name}": (draw.log_probs[name], by_site[name]) for name in joint.sites}
        for term, integral, point in zip(decomposition.integrals, model.integrals, draw.points, strict=True):
            held = {name: draw.values[name] for name in integral.held}
            others = {name: value for name, value in draw.values.items() if name not in term.integrated}
            unused = sum(by_site[name] for name in by_site if name not in term.factors)
            u, unravel = ravel_pytree(point)
            target = integral.integrand.target(held)
            base_u = target.sample_base(key)
            for where, at in (("exact", u), ("base", base_u)):
                base = target.log_base(at)
                ratio = target.log_ratio(at)
                conditioned = handlers.condition(given, data=others)
                energy = potential_energy(conditioned, case.args, case.kwargs, unravel(at))
                pairs[f"potential {where}"] = (base + ratio, -energy - unused)
                pairs[f"u {where}"] = (at, at)
                if where == "exact":
                    pairs["ratio"] = (ratio, sum(by_site[name] for name in set(term.factors) & set(others)))
            maps = {name: biject_to(trace[name]["fn"].support) for name in term.integrated}
            jacobian = sum(
                map_.log_abs_det_jacobian(point[name], draw.values[name]).sum() for name, map_ in maps.items()
            )
            pairs["by hand"] = (pairs["potential exact"][0], total - unused + jacobian)
        return draw.values, pairs

    values, pairs = jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), NUM_DRAWS)))
    for name, (ours, theirs) in pairs.items():
        np.testing.assert_allclose(ours, theirs, rtol, atol, err_msg=name)
    # Base draws have the same marginal distribution as the exact ones.
    exact, base = pairs["u exact"][0], pairs["u base"][0]
    assert (abs(exact.mean(0) - base.mean(0)) < 5 * np.sqrt((exact.var(0) + base.var(0)) / NUM_DRAWS)).all()
    for name, (mean, sd) in case.moments.items():
        found = values[name].astype(float)
        assert (abs(found.mean(0) - mean) < 5 * found.std(0) / NUM_DRAWS**0.5).all(), name
        assert sd is None or (abs(found.std(0) / sd - 1) < 0.5).all(), name
    return values
