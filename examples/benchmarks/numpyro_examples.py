"""The default method on ten models of the kind that NumPyro's examples show, as their users write them.

Prints one JSON line a model: the bounds, the gap over joint draws (mean, median, worst, and the share of the worst
draw in all that is positive of it), terms that are not finite, seconds and gradient evaluations. The models are those
of `tests/example_models.py`.

    python examples/benchmarks/numpyro_examples.py --models baseball horseshoe
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import numpy as np

from numpyro_mi import mi_bounds

sys.path.append(str(pathlib.Path(__file__).parents[2] / "tests"))
from example_models import EXAMPLES  # noqa: E402


def row(name, result, seconds):
    """What there is to say of one result."""
    gaps = result.upper_i - result.lower_i
    positive = gaps.clip(0)
    numbers = {
        "lower": result.lower,
        "lower_se": result.lower_se,
        "upper": result.upper,
        "upper_se": result.upper_se,
        "gap": result.gap,
        "gap_se": result.gap_se,
        "gap_median": np.median(gaps),
        "gap_worst": gaps.max(),
        "max_share": positive.max() / positive.sum() if positive.sum() > 0 else 0.0,
    }
    found = {"benchmark": "numpyro_examples", "model": name, "draws": result.num_samples}
    found |= {key: round(float(value), 4) for key, value in numbers.items()}
    found |= {f"non_finite_{side}": count for side, count in result.num_non_finite.items()}
    return found | {
        "seconds": round(seconds, 1),
        "compiling": round(result.seconds["compiling"], 1),
        "gradients": sum(result.cost.values()),
        "device": jax.devices()[0].device_kind,
    }


def main(args):
    """One line a model."""
    for name in args.models:
        example = EXAMPLES[name]
        start = time.perf_counter()
        result = mi_bounds(
            example.model,
            example.latent,
            example.data,
            example.given,
            model_args=example.model_args,
            model_kwargs=example.model_kwargs,
            num_samples=args.num_samples,
            rng_key=args.seed,
            progress_bar=args.progress,
        )
        print(json.dumps(row(name, result, time.perf_counter() - start)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(EXAMPLES), choices=list(EXAMPLES))
    parser.add_argument("--num-samples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", action="store_true")
    main(parser.parse_args())
