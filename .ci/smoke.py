"""A short run of the installed package on a model whose mutual information is known."""

import math

import numpyro
import numpyro.distributions as dist

from numpyro_mi import AIS, mi_bounds

RHO = 0.8


def model(x=None):
    """Two standard normal variables with correlation RHO."""
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(RHO * z, math.sqrt(1.0 - RHO**2)), obs=x)


truth = -0.5 * math.log1p(-(RHO**2))
method = AIS(num_temperatures=20, num_particles=4)
bounds = mi_bounds(model, latent="z", data="x", method=method, num_samples=400, rng_key=0, progress_bar=False)
print(
    f"I(z; x) = {truth:.3f} nats: lower {bounds.lower:.3f} (standard error {bounds.lower_se:.3f}), "
    f"upper {bounds.upper:.3f} (standard error {bounds.upper_se:.3f})"
)
assert 0.0 < bounds.lower_se < 0.2 and 0.0 < bounds.upper_se < 0.2
assert bounds.lower - 4.0 * bounds.lower_se <= truth <= bounds.upper + 4.0 * bounds.upper_se
