"""Importance sampling from a guide or the prior: IWAE, Barber-Agakov and Structured InfoNCE bounds."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_mi.annealing.chains import Path
from numpyro_mi.evidence.base import Evidence, log_mean_exp
from numpyro_mi.guides.base import Guide, check_guide
from numpyro_mi.guides.regression import RegressionGuide
from numpyro_mi.options import integer
from numpyro_mi.targets import AnnealedTarget

_CHUNK = 256


class _ImportanceMethod:
    """K draws from the base, no transitions."""

    num_particles: int
    kernel = None

    def _check(self) -> None:
        count = integer(type(self).__name__, "num_particles", self.num_particles)
        object.__setattr__(self, "num_particles", count)

    def betas(self) -> np.ndarray:
        """One step, from the base to the target."""
        return np.array([0.0, 1.0])

    def evidence(self, target: AnnealedTarget, path: Path, exact: jax.Array, rng_key: jax.Array) -> Evidence:
        """Bounds on `log Z` of one target, given `exact`, one exact draw of it."""

        def weight(particle):
            return target.log_ratio(target.sample_base(jax.random.fold_in(rng_key, particle)))

        drawn = jax.lax.map(weight, jnp.arange(self.num_particles), batch_size=_CHUNK)
        own = target.log_ratio(exact)
        mixed = jnp.concatenate([own[None], drawn[1:]])
        stats = {"forward_log_weight": drawn, "reverse_log_weight": own[None]}
        return Evidence(log_mean_exp(drawn), log_mean_exp(mixed), stats)


@dataclass(frozen=True)
class IWAE(_ImportanceMethod):
    """Importance-weighted bounds: K draws from a guide.

    The upper bound on mutual information takes K guide draws; the lower one the simulated latent, an
    exact posterior draw, and K-1 guide draws. Both close as K grows, at a rate that is exponential in
    the divergence of the guide from the posterior: the lower bound exceeds the Barber-Agakov bound of
    the same guide by a contrastive term of at most `log K`.

    Parameters
    ----------
    guide
        q(z|x), such as `RegressionGuide()`, or a fitted one.
    num_particles
        K weights a bound.

    References
    ----------
    Burda, Grosse and Salakhutdinov, 2016; Sobolev and Vetrov, 2019; Brekelmans et al., ICLR 2022.
    """

    guide: Guide = field(default_factory=RegressionGuide, compare=False)
    num_particles: int = 100

    def __post_init__(self) -> None:
        self._check()
        check_guide("IWAE", "guide", self.guide)

    @property
    def base(self) -> Guide:
        """Its guide."""
        return self.guide


@dataclass(frozen=True)
class BarberAgakov(_ImportanceMethod):
    """Variational bounds of a guide: the lower `E log q(z|x) / p(z)`, and the upper of its ELBO.

    The lower bound lies below the truth by the mean divergence of the posterior from the guide, the
    upper above it by that of the guide from the posterior.

    Parameters
    ----------
    guide
        q(z|x), such as `RegressionGuide()`, or a fitted one.

    References
    ----------
    Barber and Agakov, NeurIPS 2003.
    """

    guide: Guide = field(default_factory=RegressionGuide, compare=False)

    num_particles = 1

    def __post_init__(self) -> None:
        check_guide("BarberAgakov", "guide", self.guide)

    @property
    def base(self) -> Guide:
        """Its guide."""
        return self.guide


@dataclass(frozen=True)
class StructuredInfoNCE(_ImportanceMethod):
    """Importance-weighted bounds with the prior as guide: nested Monte Carlo and its contrastive partner.

    The lower bound, whose K weights include that of the simulated latent, never exceeds `log K`. The
    upper takes K fresh prior draws and leaves the simulated latent out. In experimental design they
    are known as prior contrastive estimation and nested Monte Carlo.

    Parameters
    ----------
    num_particles
        K weights a bound.

    References
    ----------
    Poole et al., ICML 2019; Foster et al., AISTATS 2020; Brekelmans et al., ICLR 2022.
    """

    num_particles: int = 1000

    base = None

    def __post_init__(self) -> None:
        self._check()


ImportanceMethod = IWAE | BarberAgakov | StructuredInfoNCE
