"""One log-marginal of a model as functions of its continuous sites, discrete ones summed out."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax import random
from numpyro import handlers

from numpyro_mi.model.integrals.decomposition import LogMarginal
from numpyro_mi.model.integrals.sum_plans import layouts, plan
from numpyro_mi.model.integrals.sums import Layout, Sum, Tables
from numpyro_mi.model.joint.checks import listed
from numpyro_mi.model.joint.joint_model import JointModel, Values
from numpyro_mi.model.sites.coordinates import STANDARDISED, frame, substitute_points, unstandardised
from numpyro_mi.model.sites.logits import is_beta
from numpyro_mi.model.sites.support import JACOBIAN, site_log_prob_tables, site_log_probs
from numpyro_mi.model.staging import depends_on

_ROUNDING, _SMALL = 1e-5, 1e-4  # of an element's log-density, relative and in nats


class Misreading(NamedTuple):
    """Errors of the tables of one conditional at a model's draw.

    Attributes
    ----------
    total
        Summed over elements, nats, with their signs.
    relative
        The largest of an element, relative to its log-density.
    rounding
        The largest of an element, relative to what rounding explains.
    """

    total: jax.Array
    relative: jax.Array
    rounding: jax.Array


class Piece:
    """The integrand of one log-marginal.

    In all methods `points` are the continuous integrated sites in unconstrained coordinates and `held` the
    values of the sites that the integral is conditioned on, both by name. If `held` has an entry `STANDARDISED`,
    true or false, it says which coordinates those are of the sites in `standard`; without one, and for all
    others, they are those of the sites' supports.

    Parameters
    ----------
    model
        The model.
    integral
        The log-marginal.

    Attributes
    ----------
    standard
        Integrated sites that can be standardised.
    choosable
        Whether that changes more than the units of their coordinates.
    by_logit
        Integrated sites whose coordinate, a logit, goes beyond what their value can tell.

    Raises
    ------
    ValueError
        If a sum over its discrete sites takes too much work.
    """

    def __init__(self, model: JointModel, integral: LogMarginal):
        self.model, self.integral = model, integral
        self.summed = tuple(name for name in integral.integrated if model.traced[name].choices is not None)
        self.continuous = tuple(name for name in integral.integrated if name not in self.summed)
        self.held = tuple(
            name
            for name in model.sites
            if name not in integral.integrated
            and (name in integral.factors or any(name in model.parents[factor] for factor in integral.factors))
        )
        scopes = {name: frozenset(({name} | model.parents[name]) & set(self.summed)) for name in integral.factors}
        self._scopes = {name: scope for name, scope in scopes.items() if scope}
        self._own = [name for name in integral.factors if name in integral.integrated]
        self._sum = self._plan() if self.summed else None
        self.standard, self.choosable, self.by_logit = self._frames()

    def trace_at(self, points: Values, held: Values) -> dict[str, dict]:
        """The model at one point."""
        values = {name: value for name, value in held.items() if name != STANDARDISED}
        place = partial(substitute_points, points, self.standard, held.get(STANDARDISED))
        return handlers.trace(handlers.substitute(self.model.held_at(values), substitute_fn=place)).get_trace()

    def log_base(self, points: Values, held: Values) -> jax.Array:
        """Log-density of the conditionals of the integrated sites, nats."""
        plain, tables = self._factors(points, held)
        own = sum((plain[name] for name in self._own if name in plain), plain[JACOBIAN])
        return own + self._log_sum({name: tables[name] for name in tables if name in self._own})

    def log_ratio(self, points: Values, held: Values) -> jax.Array:
        """Log-density of the whole integrand minus `log_base`."""
        plain, tables = self._factors(points, held)
        rest = sum((value for name, value in plain.items() if name not in (*self._own, JACOBIAN)), jnp.zeros(()))
        own = self._log_sum({name: tables[name] for name in tables if name in self._own})
        return rest + self._log_sum(tables) - own

    def log_total(self, points: Values, held: Values) -> jax.Array:
        """Log-density of the whole integrand."""
        plain, tables = self._factors(points, held)
        return sum(plain.values(), jnp.zeros(())) + self._log_sum(tables)

    def by_site(self, points: Values, held: Values) -> Values:
        """Each factor by name; of those that depend on summed sites the largest over their values."""
        plain, tables = self._factors(points, held)
        found = {name: plain[name] for name in self.integral.factors if name in plain}
        return found | {name: table.reshape(table.shape[0], -1).sum(1).max() for name, table in tables.items()}

    def misread(self, values: Values) -> dict[str, Misreading]:
        """How far the tables of each factor that depends on summed sites err at a model's draw.

        A table holds an element's log-density with all other elements of its site at values that they do not have in
        the draw, so that an element whose density depends on others differs from what it is in the draw.
        """
        if self._sum is None:
            return {}
        trace = handlers.trace(self.model.held_at(values)).get_trace()
        direct = site_log_prob_tables(trace, tuple(self._scopes))
        found = self._sum.read(self._tables({}, values), values)
        wanted = {name: self._sum.aligned(name, direct[name][None])[0] for name in self._scopes}
        return {name: _misreading(found[name], wanted[name]) for name in self._scopes}

    def _plan(self) -> Sum:
        """How to go through the values of the summed sites."""
        names = tuple(self._scopes)
        found: dict[str, Layout] = {}

        def record(rng_key):
            values = self.model.simulate(rng_key)
            trace = handlers.trace(self.model.held_at(values)).get_trace()
            shapes = {name: jnp.shape(table) for name, table in site_log_prob_tables(trace, names).items()}
            found.update(layouts(trace, names, shapes))
            return values

        values = jax.eval_shape(record, random.key(0))
        self._check_coordinates(values)
        choices = {name: self.model.traced[name].choices or () for name in self.summed}
        return plan(self.summed, choices, found, self._scopes)

    def _check_coordinates(self, values: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        """Refuse a continuous site whose support moves with a summed one: it has no coordinates of its own."""
        if not self.continuous:
            return

        def transformed(inputs):
            trace = handlers.trace(self.model.held_at(inputs)).get_trace()
            return {name: jax.tree.leaves(trace[name]["fn"].support) for name in self.continuous}

        for name, used in depends_on(transformed, dict(values)).items():
            if used & set(self.summed):
                _refuse_moving_support(name, sorted(used & set(self.summed)))

    def _frames(self) -> tuple[tuple[str, ...], bool, tuple[str, ...]]:
        """`standard`, `choosable` and `by_logit`."""
        logits: set[str] = set()
        linear: dict[str, str] = {}

        def leaves(inputs):
            trace = handlers.trace(self.model.held_at(inputs)).get_trace()
            found = {name: frame(trace[name]["fn"]) for name in self.continuous}
            logits.update(name for name in self.continuous if is_beta(trace[name]["fn"]))
            linear.update({name: own.linear for name, own in found.items() if own is not None})
            return {name: (own.loc, own.scale) for name, own in found.items() if own is not None}

        if not self.continuous:
            return (), False, ()
        used = depends_on(leaves, jax.eval_shape(self.model.simulate, random.key(0)))
        standard = tuple(name for name, by in used.items() if not by & set(self.summed))
        choosable = any(used[name] or linear[name] != "elements" for name in standard)
        return standard, choosable, tuple(sorted(logits))

    def _factors(self, points: Values, held: Values) -> tuple[Values, Tables]:
        """Factors that depend on no summed site, with the log-determinant, and tables of the others."""
        names = [name for name in self.integral.factors if name not in self._scopes]
        trace = self.trace_at(points, held)
        plain = site_log_probs(trace, names, self.continuous, self._in_supports(trace, points, held))
        return plain, {} if self._sum is None else self._tables(points, held)

    def _in_supports(self, trace: Mapping[str, dict], points: Values, held: Values) -> Values:
        """Points in the coordinates of the sites' supports."""
        if STANDARDISED not in held:
            return points
        flag = held[STANDARDISED]
        moved = {name: unstandardised(trace[name]["fn"], points[name], flag)[0] for name in self.standard}
        return {**points, **moved}

    def _tables(self, points: Values, held: Values) -> Tables:
        assert self._sum is not None

        def at(values: Values) -> Tables:
            trace = self.trace_at(points, {**held, **values})
            moved = self._in_supports(trace, points, held)
            tables = site_log_prob_tables(trace, tuple(self._scopes), self.continuous, moved)
            return {name: tables[name] for name in self._scopes}

        values = {name: jnp.asarray(value) for name, value in self._sum.configurations().items()}
        return jax.vmap(at)(values)

    def _log_sum(self, tables: Tables) -> jax.Array:
        """Log of the sum of their product; exactly 0 of the sites' own conditionals alone."""
        if self._sum is None or set(tables) <= set(self.summed):
            return jnp.zeros(())
        return self._sum.log_sum(tables)


def _misreading(found: jax.Array, wanted: jax.Array) -> Misreading:
    # Equal infinities do not differ.
    difference = jnp.where(found == wanted, 0.0, found - wanted)
    size = jnp.abs(wanted)
    relative, rounding = jnp.abs(difference) / (1 + size), jnp.abs(difference) / (_ROUNDING * size + _SMALL)
    return Misreading(difference.sum(), relative.max(), rounding.max())


def _refuse_moving_support(name: str, summed: Sequence[str]) -> NoReturn:
    """Refuse a continuous site without coordinates that are the same for all values of a discrete one."""
    raise ValueError(
        f"the support of site {name!r} depends on discrete site(s) {listed(summed)}, over which it would have to be "
        "summed: write it through a distribution with a fixed support, such as the support's lower bound plus a "
        "positive variable."
    )
