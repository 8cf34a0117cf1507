"""Shared by the tests: exact pointwise mutual information on the draws of a run, and few programs in memory."""

import os
import pathlib

import jax
import jaxlib
import numpy as np
import pytest

from numpyro_mi.draws.keys import Role, role_key
from numpyro_mi.draws.simulation import joint_draws
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model

# Most of the suite's time is compiling. Little optimisation halves it, and so does the older of XLA's two code
# generators for fused loops. XLA ends the process at a flag that it does not know.
flags = ["--xla_backend_optimization_level=1"]
if jaxlib.__version__.startswith("0.9."):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(flags))


@pytest.fixture
def exact_pointwise():
    """`(task, rng_key, count) -> log p(x | z) - log p(x)` on the joint draws that `mi_bounds` scores."""

    def compute(task, rng_key, count):
        joint = joint_model(task.model, task.latent, task.data)
        decomposition = decompose(joint)
        staged = stage_model(joint, decomposition)
        key = role_key(jax.random.key(rng_key), Role.JOINT)
        draws = joint_draws(staged.draw, key, count)
        log_marginal = jax.vmap(lambda values: task.log_marginal({name: values[name] for name in joint.data}))(
            draws.values
        )
        return sum(
            sign * np.asarray(draws.log_probs[name], np.float64) for sign, name in decomposition.exact
        ) - np.asarray(log_marginal, np.float64)

    return compute


@pytest.fixture(autouse=True)
def _few_programs():
    """Compiled programs take some hundred memory mappings each; at Linux' limit of 65,530 XLA crashes."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 40_000:
        jax.clear_caches()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Nearly all of the time of tests marked `compile_fast` goes into compiling programs that run for an instant."""
    jax.config.update("jax_disable_most_optimizations", item.get_closest_marker("compile_fast") is not None)
