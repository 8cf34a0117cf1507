"""Bound how much a handwritten digit says about its latent code.

Fits probabilistic PCA with 10 latents to scikit-learn's 1,797 digit images, writes the fitted model
as a NumPyro model, and bounds the mutual information between latents and image from both sides.
For this model the truth is known, so the interval can be compared with it.

    python examples/quickstart.py
"""

import argparse
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
from sklearn.datasets import load_digits

from numpyro_mi import mi_bounds, plot_bounds, plot_log_weights


def fit_ppca(images, num_latents):
    """Maximum-likelihood probabilistic PCA: mean, loadings and noise scale (Tipping and Bishop, 1999)."""
    mean = images.mean(0)
    variances, directions = np.linalg.eigh(np.cov(images.T, bias=True))
    variances, directions = variances[::-1], directions[:, ::-1]
    noise_variance = variances[num_latents:].mean()
    loadings = directions[:, :num_latents] * np.sqrt(variances[:num_latents] - noise_variance)
    return mean, loadings, np.sqrt(noise_variance)


def main(args):
    """Fit, bound, compare, save."""
    images = load_digits().data / 16.0
    mean, loadings, noise = fit_ppca(images, args.num_latents)

    def model(x=None):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([args.num_latents]).to_event(1))
        numpyro.sample("x", dist.Normal(mean + loadings @ z, noise).to_event(1), obs=x)

    result = mi_bounds(model, latent="z", data="x", num_samples=args.num_samples)
    signal = np.eye(args.num_latents) + loadings.T @ loadings / noise**2
    truth = 0.5 * np.linalg.slogdet(signal)[1]
    print(result)
    print(f"  closed form   {truth:.4f} nats")

    args.output.mkdir(parents=True, exist_ok=True)
    result.to_netcdf(args.output / "quickstart.nc")
    plot_bounds({"probabilistic PCA of digits": result}, true_value=truth).savefig(args.output / "bounds.png")
    plot_log_weights(result).savefig(args.output / "log_weights.png")
    print(f"  saved         {', '.join(str(path) for path in sorted(args.output.iterdir()))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-latents", type=int, default=10)
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("quickstart_output"))
    main(parser.parse_args())
