"""NumPyro's own HMC and NUTS, driven on the annealed density with frozen settings."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpyro.infer import HMC, NUTS
from numpyro.infer.hmc import hmc
from numpyro.infer.hmc_util import euclidean_kinetic_energy
from numpyro.infer.util import ParamInfo

from numpyro_mi.annealing.kernels.base import ChainState, Kernel, StepInfo, StepSettings, evaluate
from numpyro_mi.targets import AnnealedTarget

_DEFAULT_NUM_STEPS = 3


@dataclass(frozen=True)
class NumPyroKernel:
    """Settings of a NumPyro `HMC` or `NUTS` object, as a transition of the annealed density.

    Both are reversible for frozen settings, so they serve both directions. Energy and gradient are
    those of the current temperature at every transition. A transition costs one gradient more than
    NumPyro counts, for the value of base and log-ratio apart.

    Parameters
    ----------
    algo
        "HMC" or "NUTS".
    num_steps, trajectory_length
        Of HMC: one of the two is set, the other None.
    max_tree_depth
        Of NUTS.
    step_size, inverse_mass_matrix
        The user's values, or None: tuned on pilot draws and frozen.
    dense_mass
        Whether the mass is a full matrix.
    target_accept_prob
        As in NumPyro.
    """

    algo: str
    num_steps: int | None
    trajectory_length: float | None
    max_tree_depth: int
    step_size: float | None
    inverse_mass_matrix: tuple | None
    dense_mass: bool
    target_accept_prob: float

    @property
    def max_step_size(self) -> float:
        """A quarter period for a fixed number of steps; else as far as a leapfrog step is stable."""
        return 0.5 * math.pi / self.num_steps if self.num_steps else 2.0

    def init(self, target: AnnealedTarget, u: jax.Array) -> ChainState:
        """State at `u`; one gradient."""
        return evaluate(target, u)

    def sample_noise(self, rng_key: jax.Array, u: jax.Array) -> jax.Array:
        """The key that NumPyro draws from."""
        return rng_key

    def forward(
        self, target: AnnealedTarget, state: ChainState, settings: StepSettings, noise: jax.Array
    ) -> tuple[ChainState, StepInfo]:
        """One transition."""

        def potential_at(beta):
            return lambda u: -(target.log_base(u) + beta * target.log_ratio(u))

        beta = settings.beta
        init, sample = hmc(potential_fn_gen=potential_at, algo=self.algo)
        started = init(
            ParamInfo(state.u, -state.log_density(beta), -state.grad_density(beta)),
            num_warmup=0,
            step_size=settings.step_size,
            inverse_mass_matrix=settings.inverse_mass_matrix,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            dense_mass=self.dense_mass,
            num_steps=self.num_steps,
            trajectory_length=self.trajectory_length,
            max_tree_depth=self.max_tree_depth,
            model_args=(beta,),
            rng_key=noise,
        )
        moved = sample(started, model_args=(beta,))
        return evaluate(target, moved.z), StepInfo(moved.accept_prob, moved.num_steps + 1)

    reverse = forward


def from_numpyro(kernel: HMC) -> NumPyroKernel:
    """Read the settings of a NumPyro kernel object; its model plays no part.

    Raises
    ------
    ValueError
        For settings that would be silently wrong or cannot be frozen.
    """
    name = type(kernel).__name__
    if kernel._potential_fn is not None:
        raise ValueError(
            f"{name} was built from potential_fn=: the annealed density comes from the model, so build it as "
            f"{name}(model, ...)."
        )
    if kernel._kinetic_fn is not euclidean_kinetic_energy:
        raise ValueError(f"{name} has its own kinetic_fn, which is not supported: leave it at the Euclidean default.")
    if kernel._find_heuristic_step_size:
        raise ValueError(
            f"{name} has find_heuristic_step_size=True, which looks at the scored point and voids the bounds: leave it "
            "False; the step size is tuned on pilot draws."
        )
    if kernel._forward_mode_differentiation:
        raise ValueError(f"{name} has forward_mode_differentiation=True, which is not supported.")
    num_steps, trajectory_length = None, None
    if name == "HMC":
        num_steps, trajectory_length = _hmc_length(kernel)
    depth = kernel._max_tree_depth
    return NumPyroKernel(
        algo=name,
        num_steps=num_steps,
        trajectory_length=trajectory_length,
        max_tree_depth=depth if isinstance(depth, int) else depth[-1],
        step_size=None if kernel._adapt_step_size else float(kernel._step_size),
        inverse_mass_matrix=_mass(kernel),
        dense_mass=_dense(kernel),
        target_accept_prob=float(kernel._target_accept_prob),
    )


def as_kernel(kernel: Any) -> Kernel:
    """A kernel of this package, from itself or from a NumPyro `HMC` or `NUTS` object.

    Raises
    ------
    TypeError
        For anything else.
    """
    if type(kernel) in (HMC, NUTS):
        return from_numpyro(kernel)
    if not isinstance(kernel, type) and all(
        callable(getattr(kernel, name, None)) for name in ("init", "sample_noise", "forward", "reverse")
    ):
        return kernel
    raise TypeError(
        f"kernel must be AnnealedHMC(...) or NumPyro's HMC(model, ...) or NUTS(model, ...), got "
        f"{kernel.__name__ if isinstance(kernel, type) else type(kernel).__name__}: other kernels keep values of the "
        "previous temperature between transitions, or adapt, and would run silently wrong."
    )


def _hmc_length(kernel: HMC) -> tuple[int | None, float | None]:
    num_steps, length = kernel._num_steps, kernel._trajectory_length
    if num_steps is not None and length is not None:
        raise ValueError(
            f"HMC has num_steps={num_steps} beside trajectory_length={length:.4g}, which wins in NumPyro and sets the "
            f"step to {length / num_steps:.3g}: pass trajectory_length=None to fix the number of steps."
        )
    if num_steps is not None:
        return int(num_steps), None
    if math.isclose(length, 2 * math.pi):  # NumPyro's default, ruinous for annealing: unset
        return _DEFAULT_NUM_STEPS, None
    return None, float(length)


def _dense(kernel: HMC) -> bool:
    if not isinstance(kernel._dense_mass, bool):
        raise ValueError(f"dense_mass={kernel._dense_mass!r}: blocks by site are not supported, pass True or False.")
    return kernel._dense_mass


def _mass(kernel: HMC) -> tuple | None:
    mass = kernel._inverse_mass_matrix
    if kernel._adapt_mass_matrix:
        return None
    if mass is None:
        raise ValueError("adapt_mass_matrix=False needs inverse_mass_matrix, an array over the unconstrained latents.")
    if isinstance(mass, dict):
        raise ValueError(
            "inverse_mass_matrix as a dict of blocks is not supported: pass one array over the unconstrained latents, "
            "sites in alphabetical order."
        )
    mass = np.asarray(mass, np.float64)
    if mass.ndim != (2 if _dense(kernel) else 1):
        raise ValueError(
            f"inverse_mass_matrix has shape {mass.shape}: a vector for dense_mass=False, a matrix for True."
        )
    return tuple(mass.tolist()) if mass.ndim == 1 else tuple(map(tuple, mass.tolist()))
