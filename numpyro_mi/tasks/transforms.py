"""Bijections that leave mutual information as it is but bend the densities."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from numpyro.distributions import constraints
from numpyro.distributions.transforms import ParameterFreeTransform, Transform


class Cube(ParameterFreeTransform):
    """Cube each coordinate: ``y = x^3``.

    The density of ``y`` has an integrable singularity at 0, where it grows like ``|y|^(-2/3)``, and the
    inverse has no derivative there.
    """

    domain = constraints.real
    codomain = constraints.real
    sign = 1

    def __call__(self, x):
        """Return the cube."""
        return x**3

    def _inverse(self, y):
        return jnp.cbrt(y)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """Return ``log(3 x^2)`` in each coordinate."""
        return math.log(3.0) + 2.0 * jnp.log(jnp.abs(x))


class Asinh(ParameterFreeTransform):
    """Inverse hyperbolic sine of each coordinate, ``y = asinh(x)``, which shortens the tails.

    The inverse overflows in single precision beyond ``|y|`` of about 89.
    """

    domain = constraints.real
    codomain = constraints.real
    sign = 1

    def __call__(self, x):
        """Return the inverse hyperbolic sine."""
        return jnp.arcsinh(x)

    def _inverse(self, y):
        return jnp.sinh(y)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """Return ``-log cosh(y)`` in each coordinate."""
        return math.log(2.0) - jnp.logaddexp(y, -y)


class NormalCDF(ParameterFreeTransform):
    """Standard normal distribution function of each coordinate, onto the unit interval.

    Rounded values are kept strictly inside of the interval, so the map is one to one only where floating
    point can tell the values apart: in single precision the upper end, ``x > 5.4``, collapses, and from some
    x = 4 on the inverse returns x to within 0.001 only. The lower end is as good as the number format.
    """

    domain = constraints.real
    codomain = constraints.unit_interval
    sign = 1

    def __call__(self, x):
        """Return the normal distribution function."""
        return self._inside(ndtr(x))

    def _inverse(self, y):
        return ndtri(self._inside(y))

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """Return the log density of the standard normal distribution in each coordinate."""
        return -0.5 * (x**2 + math.log(2.0 * math.pi))

    @staticmethod
    def _inside(y):
        info = jnp.finfo(jnp.result_type(y))
        return jnp.clip(y, info.tiny, 1.0 - info.epsneg)


class Spiral(Transform):
    """Rotate the first two coordinates of a vector by an angle proportional to the norm of the vector.

    The rotation leaves the norm as it is, so the inverse rotates back by the same angle and volume is
    preserved. The vector needs two or more coordinates.

    Parameters
    ----------
    speed : float
        Angle in radians per unit of norm.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed

    def __call__(self, x):
        """Return the rotated vector."""
        return self._rotate(x, self.speed)

    def _inverse(self, y):
        return self._rotate(y, -self.speed)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """Return zero: volume is preserved."""
        return jnp.zeros(jnp.shape(x)[:-1], dtype=jnp.result_type(x))

    def tree_flatten(self):
        """Return the speed as the only leaf."""
        return (self.speed,), (("speed",), dict())

    def eq(self, other, static: bool = False):
        """Compare the speeds."""
        return isinstance(other, Spiral) and (
            np.array_equal(self.speed, other.speed) if static else jnp.array_equal(self.speed, other.speed)
        )

    @staticmethod
    def _rotate(x, speed):
        if jnp.shape(x)[-1] < 2:
            raise ValueError(f"Spiral needs a vector of two or more coordinates, got shape {jnp.shape(x)}.")
        square = jnp.sum(x**2, axis=-1)
        # The square root has no derivative at 0, where the rotation is by no angle.
        norm = jnp.where(square > 0.0, jnp.sqrt(jnp.where(square > 0.0, square, 1.0)), 0.0)
        cos, sin = jnp.cos(speed * norm), jnp.sin(speed * norm)
        first, second = x[..., 0], x[..., 1]
        rotated = jnp.stack([cos * first - sin * second, sin * first + cos * second], axis=-1)
        return jnp.concatenate([rotated, x[..., 2:]], axis=-1)
