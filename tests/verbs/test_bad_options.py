"""Bad options give one clear error, before anything compiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import HMC, NUTS, SA, BarkerMH

from numpyro_mi import AIS, CR, IM, IR, AnnealedHMC, LinearSchedule, PowerSchedule, SigmoidSchedule, mi_bounds

BAD_COUNTS = [0, -1, True, 2.5, "3"]


@pytest.fixture(autouse=True)
def no_run(monkeypatch):
    monkeypatch.setattr("numpyro_mi.runs.evidence.run", lambda *args: pytest.fail("the run was about to start"))


def pair(x=None):
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(z, 1), obs=x)


def lagged(x):
    numpyro.sample("x", dist.Normal(numpyro.sample("z", dist.Normal(0, 1)) * x, 1))


# Options of mi_bounds, and the error.
BAD_OPTIONS = {
    "latent": ({"latent": 3}, TypeError, "latent must be a site name or a sequence of site names, got 3"),
    "args": ({"model_args": (1, 2)}, TypeError, r"cannot be called with model_args=\(1, 2\).*signature is \(x=None\)"),
    "kwargs": ({"model_kwargs": {"y": 1}}, TypeError, "unexpected keyword argument 'y'.*array of the right shape"),
    "args_type": ({"model_args": np.zeros(3)}, TypeError, r"must be a tuple.*write model_args=\(argument,\)"),
    "kwargs_type": ({"model_kwargs": [1]}, TypeError, "model_kwargs must be a dict by argument name, got list"),
    "params_type": ({"params": [1]}, TypeError, "params must be a dict by parameter name, got list"),
    "unknown": ({"num_sample": 3}, TypeError, r"mi_bounds\(\) got an unexpected keyword argument 'num_sample'"),
    "method_class": (
        {"method": AIS},
        TypeError,
        r"method must be one of AIS\(...\).*or None for AIS\(\).*, got <class",
    ),
    "method": ({"method": IM()}, TypeError, r"method must be one of AIS\(...\).*or None for AIS\(\).*, got IM"),
    **{
        f"rng_key_{i}": ({"rng_key": key}, TypeError, "(?i)key")
        for i, key in enumerate(["a", 1.5, True, np.zeros(2), np.zeros(3, np.uint32), np.zeros((2, 2), np.uint32)])
    },
    "rng_keys": ({"rng_key": jax.random.split(jax.random.key(0))}, TypeError, "rng_key must be a JAX random key"),
    **{
        f"num_samples_{n}": ({"num_samples": n}, ValueError, "num_samples must be an integer of at least 2, got")
        for n in [*BAD_COUNTS, 1]
    },
    **{
        f"batch_size_{n}": ({"batch_size": n}, ValueError, "batch_size must be an integer of at least 1, got")
        for n in BAD_COUNTS
    },
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_option(name):
    options, error, message = BAD_OPTIONS[name]
    with pytest.raises(error, match=message):
        mi_bounds(pair, **{"latent": "z", "data": "x", **options})


@pytest.mark.parametrize(
    "model, options, message",
    [
        (3, {}, r"model must be a NumPyro model \(a callable\), got int"),
        (lagged, {}, r"missing a required argument: 'x'. Its signature is \(x\)"),
        (functools.partial(pair, 1.0), {"model_args": (2.0,)}, r"too many positional arguments. Its signature is \(\)"),
    ],
)
def test_bad_call(model, options, message):
    with pytest.raises(TypeError, match=message):
        mi_bounds(model, "z", "x", **options)


RISE = "must rise strictly from exactly 0 to exactly 1; got values from"
KERNEL = r"kernel must be AnnealedHMC\(...\) or NumPyro's HMC\(model, ...\) or NUTS.*got {}: other kernels keep values"
BAD_METHODS = {
    **{
        f"{name}_{value}": (AIS, {name: value}, ValueError, f"AIS needs {name}, a positive integer, got")
        for name in ("num_temperatures", "num_particles")
        for value in BAD_COUNTS
    },
    **{
        f"num_steps_{value}": (AnnealedHMC, {"num_steps": value}, ValueError, "num_steps, a positive integer")
        for value in BAD_COUNTS
    },
    "step_size": (AnnealedHMC, {"step_size": -1.0}, ValueError, r"positive step_size or None \(tuned\), got -1"),
    "mass": (AnnealedHMC, {"inverse_mass_matrix": (1.0, -1.0)}, ValueError, "positive finite inverse_mass_matrix"),
    **{
        f"schedule_{i}": (AIS, {"schedule": values}, ValueError, RISE)
        for i, values in enumerate(
            [[0, 0.5, 0.5, 1], [0, 1, 0.5], [0.1, 1], [0, 0.9], [0, float("nan"), 1], [0, -0.5, 1], [0, 1e-60, 1]]
        )
    },
    "schedule_matrix": (AIS, {"schedule": [[0, 1]]}, ValueError, r"one dimension.*got shape \(1, 2\)"),
    "schedule_point": (AIS, {"schedule": [1.0]}, ValueError, "at least the two values 0 and 1"),
    "schedule_length": (
        AIS,
        {"schedule": [0, 0.5, 1], "num_temperatures": 3},
        ValueError,
        "has 3 values, so num_temperatures must be 2",
    ),
    "schedule_rule": (AIS, {"schedule": lambda n: np.ones(3)}, ValueError, r"must return .* = 401 values, got shape"),
    "schedule_underflow": (AIS, {"schedule": PowerSchedule(50.0)}, ValueError, RISE),
    **{
        f"schedule_{value}": (
            AIS,
            {"schedule": value},
            TypeError,
            r"schedule must be a rule such as PowerSchedule\(4\)",
        )
        for value in ("abc", None, PowerSchedule, LinearSchedule)
    },
    "exponent": (PowerSchedule, {"exponent": 0}, ValueError, "positive finite exponent, got 0"),
    "radius": (SigmoidSchedule, {"radius": -1}, ValueError, "positive finite radius, got -1"),
    "scheme": (AIS, {"scheme": CR}, TypeError, r"scheme must be IM\(\), CR\(\) or IR\(posterior_sampler\), got <class"),
    "sampler": (IR, {"posterior_sampler": 3}, TypeError, "IR needs posterior_sampler, a callable"),
    **{
        f"kernel_{kernel.__name__}": (AIS, {"kernel": kernel}, TypeError, KERNEL.format(kernel.__name__))
        for kernel in (HMC, NUTS, AnnealedHMC)
    },
    "kernel_name": (AIS, {"kernel": "HMC"}, TypeError, KERNEL.format("str")),
    "barker": (AIS, {"kernel": BarkerMH(pair)}, TypeError, KERNEL.format("BarkerMH")),
    "sa": (AIS, {"kernel": SA(pair)}, TypeError, KERNEL.format("SA")),
    "potential": (AIS, {"kernel": NUTS(potential_fn=jnp.sum)}, ValueError, r"potential_fn=.*build it as NUTS\(model"),
    "heuristic": (
        AIS,
        {"kernel": HMC(pair, find_heuristic_step_size=True)},
        ValueError,
        "find_heuristic_step_size=True, which looks at the scored point and voids the bounds: leave it",
    ),
}


@pytest.mark.parametrize("name", BAD_METHODS)
def test_bad_method(name):
    make, options, error, message = BAD_METHODS[name]
    with pytest.raises(error, match=message):
        make(**options)


def test_steps_beside_the_default_trajectory():
    with pytest.warns(UserWarning, match="num_steps"):
        kernel = HMC(pair, num_steps=3)
    with pytest.raises(ValueError, match="num_steps=3 beside trajectory_length=6.283.*pass trajectory_length=None"):
        AIS(kernel=kernel)
