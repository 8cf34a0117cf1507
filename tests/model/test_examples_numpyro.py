"""Models of the kind that NumPyro's examples show: taken as they are, and how tight the default method is on them."""

import jax
import numpy as np
import pytest
from example_models import EXAMPLES

from numpyro_mi import AIS, AnnealedHMC, mi_bounds
from numpyro_mi.model.integrals.decomposition import decompose
from numpyro_mi.model.integrals.densities import stage_model
from numpyro_mi.model.joint.trace import joint_model

LEAST_FINITE, LEAST_TIGHT, TIGHT = 9, 8, 0.5  # of ten models; nats of the median gap of a draw
SUMMED = {"capture_recapture": "alive", "hidden_markov": "state", "annotation": "true"}
# The step is given, so that only one of the two stages of tuning is compiled.
TINY = AIS(num_temperatures=5, num_particles=2, kernel=AnnealedHMC(step_size=0.05))


def bounds(name, **options):
    model, latent, data, given, args, kwargs = EXAMPLES[name]
    call = {"model_args": args, "model_kwargs": kwargs, "rng_key": 0, "progress_bar": False}
    return mi_bounds(model, latent, data, given, **call, **options)


@pytest.fixture(scope="module")
def at_default():
    """Results of the default method by model, each run once."""
    found = {}

    def result(name):
        if name not in found:
            found[name] = bounds(name, num_samples=100)
        return found[name]

    return result


# First, for the fixture of those below switches optimisations off for what comes after.
@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_default_method(name, at_default):
    result = at_default(name)
    assert result.num_non_finite == {"lower": 0, "upper": 0}
    assert result.gap > -4 * result.gap_se


@pytest.mark.slow
def test_most_are_tight(at_default):
    results = [at_default(name) for name in EXAMPLES]
    finite = [result for result in results if not any(result.num_non_finite.values())]
    assert len(finite) >= LEAST_FINITE
    medians = {name: np.median(at_default(name).upper_i - at_default(name).lower_i) for name in EXAMPLES}
    assert sum(median < TIGHT for median in medians.values()) >= LEAST_TIGHT, medians


@pytest.mark.parametrize("name", EXAMPLES)
def test_taken_as_it_is(name):
    model, latent, data, given, args, kwargs = EXAMPLES[name]
    joint = joint_model(model, latent, data, args, kwargs, given=given)
    found = decompose(joint)
    assert found.dependent and len(stage_model(joint, found).integrals) == len(found.integrals) > 0
    if name in SUMMED:
        assert [piece.integrated for piece in found.sums] == [(SUMMED[name],)]


@pytest.mark.compile_fast
@pytest.mark.parametrize("name", ["zero_inflated_poisson", pytest.param("holt_winters", marks=pytest.mark.slow)])
def test_runs(name):
    result = bounds(name, method=TINY, num_samples=8)
    assert np.isfinite(result.lower_i).all() and np.isfinite(result.upper_i).all()


@pytest.mark.parametrize("name", EXAMPLES)
def test_called_with_data(name):
    """With data in the call the same sites are drawn, and nothing else is made of the data."""
    model, latent, data, given, args, kwargs = EXAMPLES[name]
    joint = joint_model(model, latent, data, args, kwargs, given=given)
    drawn = joint.simulate(jax.random.key(0))
    observed = {"admitted", "captures", "counts", "hits", "labels", "returns", "words", "y"}
    (argument,) = observed & set(model.__code__.co_varnames[: model.__code__.co_argcount])
    again = joint_model(model, latent, data, args, {**kwargs, argument: np.asarray(drawn[data])}, given=given)
    assert again.sites == joint.sites and again.parents == joint.parents and again.simulated == {data}
