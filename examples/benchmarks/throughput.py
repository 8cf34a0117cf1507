"""Leapfrog gradients per second of the annealer over raw gradients of the same density.

The raw rate is that of calls of `jit(vmap(value_and_grad))` of the NumPyro-derived log-joint at the
same number of chains, dispatch included, in the same process; both take the best of several
repeats, interleaved, because a shared machine is noisy. Prints one JSON line a model. The ratio is
what matters, not the rate.

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
from numpyro_mi.annealing import FORWARD, forward_chain, keyed_randomness, make_path
from numpyro_mi.decomposition import decompose
from numpyro_mi.model.densities import annealed_target, stage_model
from numpyro_mi.model.trace import joint_model


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
    values, _, _ = jax.jit(jax.vmap(staged.draw))(random.split(random.key(0), chains))
    held = {"x": values["x"]}
    kernel = AnnealedHMC(num_steps=num_steps)
    inner = num_temperatures - 1
    path = make_path(AIS(num_temperatures).betas(), np.full(inner, 0.1), np.ones((inner, integral.dimension)))

    @jax.jit
    def raw(u, held):
        def log_joint(u, held):
            target = annealed_target(integral.programs, integral.constants, held)
            return target.log_base(u) + target.log_ratio(u)

        return jax.vmap(jax.value_and_grad(log_joint))(u, held)

    @jax.jit
    def annealed(u, held, keys):
        def one(u, held, key):
            target = annealed_target(integral.programs, integral.constants, held)
            randomness = keyed_randomness(target, kernel, key, u)
            return forward_chain(target, kernel, path, u, lambda t: randomness.noise(FORWARD, jnp.asarray(0), t))

        return jax.vmap(one)(u, held, keys).log_weight

    u, keys = random.normal(random.key(1), (chains, integral.dimension)), random.split(random.key(2), chains)
    gradients = chains * (1 + inner * num_steps)
    best = {"raw": 0.0, "annealed": 0.0}
    calls = max(1, gradients // chains)
    jax.block_until_ready((raw(u, held), annealed(u, held, keys)))
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            out = raw(u, held)
        jax.block_until_ready(out)
        best["raw"] = max(best["raw"], calls * chains / (time.perf_counter() - start))
        start = time.perf_counter()
        jax.block_until_ready(annealed(u, held, keys))
        best["annealed"] = max(best["annealed"], gradients / (time.perf_counter() - start))
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
                "raw_per_s": round(best["raw"]),
                "annealed_per_s": round(best["annealed"]),
                "ratio": round(best["annealed"] / best["raw"], 3),
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
