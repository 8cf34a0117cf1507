"""A simulator whose likelihood is not available: predators and prey, by tau-leaping."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

RATES = (0.5, 0.0005, 0.00025, 0.3)  # births of prey, predation, growth and deaths of predators
START = (1000.0, 500.0)
STEP, NUM_STEPS, EVERY = 0.1, 200, 10


def simulate(rng_key, log_rates, noise):
    """Log counts of prey and predators at 20 times, shape (20, 2), each read with normal noise."""
    birth, predation, growth, death = jnp.exp(log_rates) * jnp.array(RATES)

    def step(state, key):
        prey, predators = state
        mean = STEP * jnp.stack(
            [birth * prey, predation * prey * predators, growth * prey * predators, death * predators]
        )
        events = jnp.maximum(mean + jnp.sqrt(mean) * jax.random.normal(key, (4,)), 0.0)
        prey = jnp.clip(prey + events[0] - events[1], 1.0, 1e6)
        predators = jnp.clip(predators + events[2] - events[3], 1.0, 1e6)
        return (prey, predators), jnp.stack([prey, predators])

    process_key, noise_key = jax.random.split(rng_key)
    start = tuple(jnp.asarray(count) for count in START)
    _, path = jax.lax.scan(step, start, jax.random.split(process_key, NUM_STEPS))
    read = path[EVERY - 1 :: EVERY]
    return jnp.log(read) + noise * jax.random.normal(noise_key, read.shape)


def lotka_volterra(prior_scale=0.3, noise=0.05):
    """A NumPyro model with four log rates and data that have no density."""

    def model():
        log_rates = numpyro.sample("z", dist.Normal(0, prior_scale).expand([4]).to_event(1))
        numpyro.deterministic("x", simulate(numpyro.prng_key(), log_rates, noise))

    return model
