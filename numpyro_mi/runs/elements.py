"""Rows of an information table that name elements of a site, each a run of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from numpyro_mi.model.integrals.decomposition import Decomposition, decompose, described
from numpyro_mi.model.joint.elements import parts_of, split_one
from numpyro_mi.model.joint.joint_model import JointModel
from numpyro_mi.model.joint.trace import joint_model
from numpyro_mi.results.estimation import spoil
from numpyro_mi.results.mutual_information import MIBounds
from numpyro_mi.runs.evidence import Rows
from numpyro_mi.runs.scoring import RawRun, add_piece


class Part(NamedTuple):
    """A row that names elements, as a run of its own on the draws of the table.

    Attributes
    ----------
    name, latent
        Of the row.
    rows
        What is run.
    whole
        All that the row is a sum of.
    lent
        Integrals of `whole` that the table has bounded already: their place in its run, by that in `whole`.
    called
        What sites are called in the end.
    """

    name: str
    latent: tuple[str, ...]
    rows: Rows
    whole: Decomposition
    lent: Mapping[int, int]
    called: Mapping[str, str]

    def result(self, raw: RawRun, table: RawRun) -> MIBounds:
        """The result; what it alone costs is not known."""
        own = self.rows.result(raw, 0, latent=self.latent, cost={}, seconds={})
        assert own.lower_i is not None and own.upper_i is not None  # a method with a likelihood has both
        lower_i, upper_i, count = own.lower_i.copy(), own.upper_i.copy(), own.num_samples
        stats, plan, guides = list(own.stats), list(own.plan), list(own.guides)
        for place, index in self.lent.items():
            # Acceptance by temperature is a mean over draws, here over all of the table's.
            lent = {
                name: value if name.endswith("_accept_prob") else value[:count]
                for name, value in table.stats[index].items()
            }
            elbo, eubo = lent["forward_log_evidence"], lent["reverse_log_evidence"]
            add_piece(lower_i, upper_i, self.whole.integrals[place].sign, elbo, eubo)
            stats.insert(place, lent)
            plan.insert(place, table.plans[index])
            guides[place:place] = table.guides[index : index + 1]
        return replace(
            own,
            lower_i=spoil(lower_i, -1),
            upper_i=spoil(upper_i, +1),
            stats=tuple(stats),
            plan=tuple(plan),
            guides=tuple(guides),
            parts={},
            decomposition=self._described(),
        )

    def _described(self) -> tuple[dict[str, Any], ...]:
        def called(names: Iterable[str]) -> list[str]:
            return [self.called.get(name, name) for name in names]

        return tuple(
            {
                **piece,
                "integrated": called(piece["integrated"]),
                "factors": {called([name])[0]: called(parents) for name, parents in piece["factors"].items()},
            }
            for piece in described(self.whole, self.rows.model.parents)
        )


def element_part(
    name: str,
    group: tuple[str, ...],
    model: Callable,
    data: str | Sequence[str],
    call: tuple,
    cells: Mapping[str, Mapping[str, Any]],
    base: Rows,
) -> Part:
    """A row that names elements, on a model of its own with the same draws."""
    called, latent = {}, group
    site = next((site for site, indices in cells.items() if group[0] in indices), None)
    if site is not None and len(group) == 1:
        model, own = split_one(model, site, cells[site][group[0]])
        called, latent = {own: group[0]}, (own,)
    joint = joint_model(model, latent, data, *call)
    whole = decompose(joint)
    lent = _lent(whole, base, joint)
    left = whole._replace(integrals=tuple(piece for i, piece in enumerate(whole.integrals) if i not in lent))
    # With terms that are lent, which are of single draws, its own must be of the same draws.
    rows = Rows(joint, (left,), base.method, base.key, may_sum=not lent)
    return Part(name, group, rows, whole, lent, called)


def _lent(whole: Decomposition, base: Rows, joint: JointModel) -> dict[int, int]:
    """Integrals over all parts of every site that is split: they are integrals over the sites themselves.

    What stands in the place of an element beside it integrates to one.
    """
    new = [site for site in joint.sites if site not in base.model.sites]
    split = {part: site for site in base.model.sites for part in parts_of(site, new)}
    known = [piece.key for piece in base.shared.integrals]
    found = {}
    for place, piece in enumerate(whole.integrals):
        integrated, factors = (tuple(dict.fromkeys(split.get(name, name) for name in names)) for names in piece.key)
        if set(split) <= set(piece.integrated) and (integrated, factors) in known:
            found[place] = known.index((integrated, factors))
    return found
