"""Refuses models whose draws do not follow the log-densities that are evaluated: nothing that is scored would hold.

Drawn in one way and evaluated in another, a model voids both bounds together, so that their gap does not show it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import jax
import numpy as np

from numpyro_mi.draws.values import atoms, check_coarse, repeats
from numpyro_mi.model.integrals.densities import JointDraw
from numpyro_mi.model.integrals.laws import Conditionals, Laws
from numpyro_mi.model.sites.identities import WRONG, Mean, mean_of

COMPILE_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For programs that run for an instant, so that optimising them takes longer than it saves."""
LARGEST_DRIFT = 1e-2  # relative; recomputing a draw through a transform and back rounds
_ROUNDING, _SMALL = 1e-4, 1e-2  # of a site's log-density, relative and in nats
_LARGEST_MISREADING = 1e-3  # relative, of one element
_LARGEST_SHARE = 0.01  # of draws that rounding may spoil
_LARGEST_MEAN = 0.01  # nats
_LARGEST_T = 6.0
_MOST_ALONE = 4  # latents that are also moved one by one
_ACCEPTANCE = 0.5
_BISECTIONS = 6
_CHUNK = 128  # draws at the same time
_LARGE = 2000  # numbers in a draw, from which on optimising the program saves time
_STEPS = (-5.0, 0.5)  # powers of ten


class Differences:
    """Log-densities where a model draws sites and where these are held, over blocks of draws."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, name: str, difference: Any, log_prob: Any) -> None:
        """Differences of one site, with the log-densities."""
        pair = np.asarray(difference, np.float64), np.abs(np.asarray(log_prob, np.float64))
        self._found.setdefault(name, []).append(pair)

    def check(self) -> None:
        """Refuse a model that is not the same model every time it is called.

        Raises
        ------
        ValueError
            Naming the site.
        """
        for name, parts in self._found.items():
            difference, size = (np.concatenate(column) for column in zip(*parts, strict=True))
            known = np.isfinite(difference)
            difference, size = difference[known], size[known]
            if not len(difference):
                continue
            error = np.abs(difference)
            relative = (error / (1 + size)).max()
            beyond = (error > _ROUNDING * size + _SMALL).mean() > _LARGEST_SHARE
            if relative > LARGEST_DRIFT or beyond or _has_mean(difference):
                _refuse_drift(name, error.max())


class LawTest:
    """The draws of a model against its log-densities, over blocks of draws of one size.

    Parameters
    ----------
    laws
        What is evaluated at each draw.
    """

    def __init__(self, laws: Laws):
        self._laws = laws
        self._steps: dict[tuple[str, ...], float] = {}
        self._moved: dict[tuple[str, ...], list[Any]] = {}
        self._conditionals: list[Conditionals] = []
        self._values: list[dict[str, np.ndarray]] = []

    def add(self, draws: JointDraw, rng_key: jax.Array) -> None:
        """One block of draws; the first few choose how far latents are moved, and are not counted for that."""
        points = {name: value for point in draws.points for name, value in point.items()}
        self._values.append(dict(draws.values))
        for start in range(0, len(next(iter(draws.values.values()))), _CHUNK):
            part = jax.tree.map(lambda leaf, start=start: leaf[start : start + _CHUNK], (dict(draws.values), points))
            evaluate = partial(self._evaluate, part[0], part[1], jax.random.fold_in(rng_key, start))
            if not self._conditionals:
                self._steps = {group: _step(partial(evaluate, group)) for group in self._groups()}
                self._conditionals.append(evaluate((), 0.0, True)[1])
                continue
            for i, (group, step) in enumerate(self._steps.items() or [((), 0.0)]):
                moved, found = evaluate(group, step, i == 0)
                self._moved.setdefault(group, []).append(moved)
                if i == 0:
                    self._conditionals.append(found)

    def check_sums(self) -> None:
        """Refuse a sum over discrete sites that a conditional does not come apart into.

        Raises
        ------
        ValueError
            Naming the site.
        """
        for name in self._conditionals[0].misread:
            parts = [block.misread[name] for block in self._conditionals]
            total, relative, rounding = (np.concatenate(column) for column in zip(*parts, strict=True))
            beyond = (np.nan_to_num(rounding, nan=np.inf) > 1).mean() > _LARGEST_SHARE
            largest = np.nan_to_num(relative, nan=np.inf).max()
            if largest > _LARGEST_MISREADING or beyond or _has_mean(np.asarray(total, np.float64)):
                _refuse_misreading(name)

    def check_coarse(self) -> None:
        """Refuse sites whose log-density is not smooth from one float to the next.

        Raises
        ------
        ValueError
            Naming the site.
        """
        for name in self._conditionals[0].terms:
            parts = [block.terms[name] for block in self._conditionals]
            curvature = np.concatenate([part.curvature for part in parts])
            if curvature.shape[1]:
                check_coarse(name, self._rows(name), curvature, int(parts[0].num_cells[0]))

    def _rows(self, name: str) -> np.ndarray:
        return np.concatenate([block[name].reshape(len(block[name]), -1) for block in self._values])

    def check(self) -> None:
        """Refuse a model whose draws break an identity of its log-densities.

        Raises
        ------
        ValueError
            Naming the sites.
        """
        for name in self._conditionals[0].terms:
            parts = [block.terms[name] for block in self._conditionals]
            for what in WRONG:
                mean = mean_of(np.concatenate([getattr(part, what) for part in parts]), int(parts[0].num_cells[0]))
                own = name in self._laws.own
                # Point masses have other identities; NumPyro's own distributions clip draws at their edges.
                if mean.fails and not (atoms(self._rows(name)).any() if own else repeats(self._rows(name))):
                    _refuse_conditional(name, what, mean, own)
        for group, blocks in self._moved.items() if self._steps else ():
            for what in ("balance", "drift"):
                mean = mean_of(np.concatenate([getattr(block, what) for block in blocks]))
                if mean.fails:
                    _refuse_joint(group, sorted({name for site in group for name in self._laws.readers[site]}), mean)

    def _groups(self) -> list[tuple[str, ...]]:
        """Sites that are moved together."""
        together = [group for group in (self._laws.points, self._laws.summed) if group]
        alone = [(name,) for name in self._laws.points] if 1 < len(self._laws.points) <= _MOST_ALONE else []
        return [*together, *alone]

    def _evaluate(
        self,
        values: Mapping[str, np.ndarray],
        points: Mapping[str, np.ndarray],
        rng_key: jax.Array,
        group: Sequence[str],
        step: float,
        whole: bool = False,
    ) -> Any:
        """The sites of a group moved by the difference of two other draws, times `step`."""
        steps = {}
        for name, value in points.items():
            length = np.asarray(step if name in group else 0.0, value.dtype)
            with np.errstate(invalid="ignore"):
                steps[name] = length * (np.roll(value, 1, 0) - np.roll(value, 2, 0))
        share = np.asarray(min(step, 1.0), jax.numpy.result_type(float))
        change = {name: share if name in group else np.zeros_like(share) for name in self._laws.summed}
        examined = _quickly_examined if _size(values) < _LARGE else _examined
        return jax.device_get(examined(self._laws.examine, rng_key, values, points, steps, change, whole))


def _step(evaluate: Any) -> float:
    """How far to move, so that a Metropolis step is accepted half of the time."""
    low, high = _STEPS
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        moved, _ = evaluate(10.0**middle)
        low, high = (middle, high) if moved.acceptance.mean() > _ACCEPTANCE else (low, middle)
    return 10.0**low


def _all_examined(examine, rng_key, values, points, steps, change, whole):
    def one(index, values, points, steps):
        return examine(jax.random.fold_in(rng_key, index), values, points, steps, change, whole)

    return jax.vmap(one)(jax.numpy.arange(_CHUNK), values, points, steps)


_examined = jax.jit(_all_examined)
_quickly_examined = jax.jit(_all_examined, compiler_options=COMPILE_QUICKLY)


def _size(values: Mapping[str, np.ndarray]) -> int:
    """Numbers in a draw."""
    return sum(value[0].size for value in values.values())


def _has_mean(differences: np.ndarray) -> bool:
    """Whether differences have a mean other than zero, beyond chance and rounding."""
    if len(differences) < 2:
        return False
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    return not abs(mean) <= max(_LARGEST_T * error, _LARGEST_MEAN)


def _refuse_drift(name: str, largest: float) -> NoReturn:
    raise ValueError(
        f"the log-density of site {name!r} is not the same where the model draws it and where it is held at that "
        f"draw (they differ by up to {largest:.2g} nats): the model draws with numpy.random or changes state of its "
        "own, or NumPyro does not put held values in their places. Draw everything with numpyro.sample."
    )


def _refuse_misreading(name: str) -> NoReturn:
    raise ValueError(
        f"the distribution of site {name!r} depends on other elements of a discrete site than its own (of another "
        "element of the plate, or of an earlier time than the one before), so that the sum over the discrete site does "
        "not come apart. Name the discrete site in given, or write the model so that elements of a plate are "
        "independent and a chain has one step of memory."
    )


def _refuse_conditional(name: str, what: str, mean: Mean, own: bool) -> NoReturn:
    mend = (
        "Check that sample and log_prob of its distribution belong together, with the normalising constant, and that "
        "its support is the set of values that it draws"
        if own
        else "Check that the parameters of its distribution are in range; in single precision, try jax.enable_x64"
    )
    raise ValueError(
        f"draws of site {name!r} do not follow its log_prob: {WRONG[what]} (an identity of exact draws is off by "
        f"{mean.value:.2g}, and chance explains {mean.allowed:.2g}). Both bounds would be wrong. {mend}."
    )


def _refuse_joint(group: Sequence[str], readers: Sequence[str], mean: Mean) -> NoReturn:
    moved, read = (", ".join(repr(name) for name in names) for names in (group, readers))
    raise ValueError(
        f"the model's draws of {moved} do not follow its log-densities (those of {read}): as these sites are moved, "
        f"an identity of exact draws is off by {mean.value:.2g}, and chance explains {mean.allowed:.2g}. Both bounds "
        "would be wrong. Check transforms and distributions of your own for their log-determinants and log_prob; in "
        "single precision, try jax.enable_x64."
    )
