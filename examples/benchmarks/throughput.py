"""Leapfrog gradients per second of the annealer over raw gradients of the same density.

The raw rate is that of `jit(vmap(value_and_grad))` of the NumPyro-derived log-joint at the same
number of chains, in the same process: in calls one by one (`ratio`), and, stricter, with all of them
inside one compiled loop, so that neither pays for dispatch (`ratio_to_one_call`). Each takes the best
of several repeats, interleaved, because a shared machine is noisy. Prints one JSON line a model. The
ratio is what matters, not the rate.

    python examples/benchmarks/throughput.py
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random

from numpyro_mi import AIS, AnnealedHMC, tasks
from numpyro_mi.annealing.chains import FORWARD, forward_chain, keyed_randomness, make_path
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model


def decoder(num_latents=10, width=256, num_pixels=784):
    """Bernoulli decoder of the size of a small image model, with random weights."""
    rng = np.random.default_rng(0)
    first = (rng.standard_normal((width, num_latents)) / np.sqrt(num_latents)).astype(np.float32)
    second = (rng.standard_normal((num_pixels, width)) / np.sqrt(width)).astype(np.float32)

    def model(x=None):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([num_latents]).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=second @ jnp.tanh(first @ z)).to_event(1), obs=x)

    return model


def measure(name, model, chains, num_temperatures, num_steps, repeats):
    """Best rates of raw and annealed gradients, gradients a second."""
    joint = joint_model(model, "z", "x")
    staged = stage_model(joint, decompose(joint))
    integral = staged.integrals[0]
    draws = jax.jit(jax.vmap(staged.draw))(random.split(random.key(0), chains))
    held = {"x": draws.values["x"]}
    kernel = AnnealedHMC(num_steps=num_steps)
    inner = num_temperatures - 1
    path = make_path(AIS(num_temperatures).betas(), np.full(inner, 0.1), np.ones((inner, integral.dimension)))

    @jax.jit
    def raw(u, held):
        def log_joint(u, held):
            target = integral.integrand.target(held)
            return target.log_base(u) + target.log_ratio(u)

        return jax.vmap(jax.value_and_grad(log_joint))(u, held)

    @jax.jit
    def raw_in_one_call(u, held):
        def body(u, _):
            value, gradient = raw(u, held)
            return u + 1e-6 * gradient, value.sum()  # what is returned keeps every evaluation alive

        return jax.lax.scan(body, u, length=calls)

    @jax.jit
    def annealed(u, held, keys):
        def one(u, held, key):
            target = integral.integrand.target(held)
            randomness = keyed_randomness(target, kernel, key, u)
            return forward_chain(target, kernel, path, u, lambda t: randomness.noise(FORWARD, jnp.asarray(0), t))

        return jax.vmap(one)(u, held, keys).log_weight

    u, keys = random.normal(random.key(1), (chains, integral.dimension)), random.split(random.key(2), chains)
    calls = 1 + inner * num_steps
    ways = {
        "raw": lambda: [raw(u, held) for _ in range(calls)][-1],
        "raw_in_one_call": lambda: raw_in_one_call(u, held),
        "annealed": lambda: annealed(u, held, keys),
    }
    best = dict.fromkeys(ways, 0.0)
    for repeat in range(repeats + 1):
        for way, evaluate in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(evaluate())
            if repeat:  # the first compiles
                best[way] = max(best[way], calls * chains / (time.perf_counter() - start))
    print(
        json.dumps(
            {
                "benchmark": "throughput",
                "model": name,
                "chains": chains,
                "num_steps": num_steps,
                "num_temperatures": num_temperatures,
                "device": jax.devices()[0].device_kind,
                "jax": jax.__version__,
                **{f"{way}_per_s": round(rate) for way, rate in best.items()},
                "ratio": round(best["annealed"] / best["raw"], 3),
                "ratio_to_one_call": round(best["annealed"] / best["raw_in_one_call"], 3),
            }
        ),
        flush=True,
    )


def main(args):
    """Measure both models."""
    measure("linear10", tasks.linear10().model, args.chains, args.num_temperatures, args.num_steps, args.repeats)
    measure(
        "decoder 10-256-784", decoder(), args.chains, max(2, args.num_temperatures // 5), args.num_steps, args.repeats
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=1000)
    parser.add_argument("--num-temperatures", type=int, default=200)
    parser.add_argument("--num-steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args())
