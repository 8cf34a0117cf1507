"""Every bound on the same joint draws, against the exact pointwise mutual information where it is known."""

import argparse
import json
import time

import jax
import numpy as np
from simulators import lotka_volterra

from numpyro_mi import (
    AIS,
    GIWAE,
    IWAE,
    MINE,
    MINEAIS,
    NWJ,
    AnnealedSMC,
    BarberAgakov,
    InfoNCE,
    RegressionGuide,
    StructuredInfoNCE,
    Training,
    mi_bounds,
    tasks,
)
from numpyro_mi.draws.keys import Role, role_key
from numpyro_mi.draws.simulation import joint_draws
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model

DIAGONAL = RegressionGuide("diagonal")


def linear10_methods(training):
    """Methods of the paper's table, with its diagonal guide, and with the package's own defaults."""
    return {
        "BarberAgakov, diagonal": BarberAgakov(DIAGONAL),
        "BarberAgakov": BarberAgakov(),
        "IWAE(100), diagonal": IWAE(DIAGONAL, 100),
        "IWAE(1000), diagonal": IWAE(DIAGONAL, 1000),
        "GIWAE(100), diagonal": GIWAE(DIAGONAL, num_particles=100, training=training),
        "MINEAIS, diagonal": MINEAIS(DIAGONAL, annealing=AIS(200, 1), training=training),
        "MINEAIS, prior": MINEAIS(None, annealing=AIS(500, 16), num_transitions=10, training=training),
        "StructuredInfoNCE(100)": StructuredInfoNCE(100),
        "StructuredInfoNCE(1000)": StructuredInfoNCE(1000),
        "InfoNCE(100)": InfoNCE(num_particles=100, training=training),
        "InfoNCE(1000)": InfoNCE(num_particles=1000, training=training),
        "MINE": MINE(training=training),
        "NWJ": NWJ(training=training),
        "AIS, diagonal": AIS(100, 4, base=DIAGONAL),
        "AnnealedSMC, diagonal": AnnealedSMC(50, 16, base=DIAGONAL),
    }


def mlp10_methods(training):
    """One diagonal guide for all."""
    return {
        "BarberAgakov, diagonal": BarberAgakov(DIAGONAL),
        "GIWAE(100), diagonal": GIWAE(DIAGONAL, num_particles=100, training=training),
        "IWAE(100), diagonal": IWAE(DIAGONAL, 100),
        "MINEAIS, diagonal": MINEAIS(DIAGONAL, training=training),
        "AIS, diagonal": AIS(400, 4, base=DIAGONAL),
    }


def simulator_methods(training):
    """A bound that knows the prior against one that knows joint samples, with the same critic and draws."""
    return {
        "GIWAE(100)": GIWAE(num_particles=100, training=training),
        "MINEAIS": MINEAIS(num_transitions=10, training=training),
        "InfoNCE(1000)": InfoNCE(num_particles=1000, training=training),
    }


def exact_pointwise(task, num_samples, seed):
    """`log p(x | z) - log p(x)` on the joint draws that every method scores."""
    joint = joint_model(task.model, task.latent, task.data)
    decomposition = decompose(joint)
    staged = stage_model(joint, decomposition)
    draws = joint_draws(staged.draw, role_key(jax.random.key(seed), Role.JOINT), num_samples)
    log_marginal = jax.vmap(lambda values: task.log_marginal({name: values[name] for name in joint.data}))(draws.values)
    likelihood = sum(sign * np.asarray(draws.log_probs[name], np.float64) for sign, name in decomposition.exact)
    return likelihood - np.asarray(log_marginal, np.float64)


def run(name, model, latent, data, methods, reference, args):
    """One JSON line a method; differences are paired with the reference, draw by draw."""
    kept = {}
    for label, method in methods.items():
        start = time.perf_counter()
        result = mi_bounds(
            model,
            latent,
            data,
            method=method,
            num_samples=args.num_samples,
            rng_key=args.seed,
            progress_bar=args.progress,
        )
        row = {"benchmark": "bounds_table", "model": name, "method": label, "draws": result.num_samples}
        for side, terms in (("lower", result.lower_i), ("upper", result.upper_i)):
            if terms is None:
                continue
            row[side], row[f"{side}_se"] = (
                round(float(v), 4) for v in (terms.mean(), terms.std(ddof=1) / len(terms) ** 0.5)
            )
            if reference is not None:
                paired = terms - reference
                row[f"{side}_minus_i"] = round(float(paired.mean()), 4)
                row[f"{side}_minus_i_se"] = round(float(paired.std(ddof=1) / len(paired) ** 0.5), 4)
        row |= {part: round(float(terms.mean()), 3) for part, terms in result.parts.items()}
        row |= {"seconds": round(time.perf_counter() - start, 1), "device": jax.devices()[0].device_kind}
        print(json.dumps(row), flush=True)
        kept[label] = result
    return kept


def table(name, kept, reference):
    """The same as a table to read."""
    print(f"\n{name}\n{'method':<28}{'lower':>18}{'upper':>18}{'lower - i':>20}")
    for label, result in kept.items():
        cells = [
            "-" if terms is None else f"{terms.mean():.3f} ± {terms.std(ddof=1) / len(terms) ** 0.5:.3f}"
            for terms in (result.lower_i, result.upper_i)
        ]
        difference = ""
        if reference is not None:
            paired = result.lower_i - reference
            difference = f"{paired.mean():.3f} ± {paired.std(ddof=1) / len(paired) ** 0.5:.3f}"
        print(f"{label:<28}{cells[0]:>18}{cells[1]:>18}{difference:>20}")


def differences(kept, pairs):
    """Paired differences of lower bounds."""
    for first, second in pairs:
        paired = kept[first].lower_i - kept[second].lower_i
        error = paired.std(ddof=1) / np.sqrt(len(paired))
        print(f"{first} above {second}: {paired.mean():.3f} ± {error:.3f}", flush=True)


def main(args):
    """The three models."""
    training = Training(max_steps=args.steps)
    if "linear10" in args.models:
        task = tasks.linear10()
        reference = exact_pointwise(task, args.num_samples, args.seed)
        kept = run("linear10", task.model, task.latent, task.data, linear10_methods(training), reference, args)
        table("linear10, I = 23.22", kept, reference)
        differences(
            kept,
            [
                ("GIWAE(100), diagonal", "BarberAgakov, diagonal"),
                ("IWAE(100), diagonal", "GIWAE(100), diagonal"),
                ("MINEAIS, diagonal", "BarberAgakov, diagonal"),
            ],
        )
    if "mlp10" in args.models:
        task = tasks.mlp10()
        kept = run("mlp10", task.model, task.latent, task.data, mlp10_methods(training), None, args)
        table("mlp10, I about 29.20", kept, None)
        order = ["BarberAgakov, diagonal", "GIWAE(100), diagonal", "IWAE(100), diagonal", "AIS, diagonal"]
        differences(kept, [*zip(order[1:], order[:-1], strict=True), ("MINEAIS, diagonal", "GIWAE(100), diagonal")])
    if "lotka_volterra" in args.models:
        model = lotka_volterra()
        kept = run("lotka_volterra", model, "z", "x", simulator_methods(Training(max_steps=2 * args.steps)), None, args)
        table("Lotka-Volterra simulator", kept, None)
        differences(kept, [("MINEAIS", "InfoNCE(1000)")])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["linear10", "mlp10", "lotka_volterra"])
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", action="store_true")
    main(parser.parse_args())
