"""The method: which layers are factorized, in which form and at which ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.edits import Edit
from lilliput.core.method import Look, Method
from lilliput.errors import BudgetError, ConfigError, EditError, ModelError, UnknownName, at
from lilliput.factor.budget import Choice, allocations, floor
from lilliput.factor.chain import NOT_FINITE, Chain, finite, forms, kernel
from lilliput.factor.felt import felt, lost
from lilliput.factor.moments import absorb_whitened, moments, root, whitened
from lilliput.factor.ranks import FULL, VBMF, Offer, Rung
from lilliput.factor.reconstruct import reconstruct
from lilliput.factor.sites import Site, sites
from lilliput.factor.times import edits, outlined, share, thinned, times
from lilliput.measure import profile

BUDGETS = ("macs", "params", "latency")  # for the whole network
RULES = ("rank", "energy", "error", *BUDGETS)
TRIES = 6  # measurements of whole networks until a latency target holds
SURE = 0.985  # of the target: medians are known to 1 %, so what is measured there is within it the next time as well


@config("factor.factorize")
class Factorize(Method):
    """Layers become chains of cheaper layers; without a rule for the ranks nothing changes.

    method       svd, spatial, cp, tucker2, separable, group, tt or low_rank_sparse, or several, of which each layer gets the
                 best. 1x1 and linear layers get `svd` where the form asks for a larger kernel
    options      of the form: {"groups": 4, "shuffle": true} for group, {"relu": true} for separable, {"density": 0.05}
    One of these:
    rank         a number, a share of the largest as a float, "full", "vbmf", or these by layer pattern: {"layer3.*": 0.25}
    energy       share of the weight's energy to keep in every layer
    error        largest relative error of a weight, ‖W − Ŵ‖ / ‖W‖
    macs, params, latency   what the whole network may cost, as a share of what it costs now; ranks minimise what is lost in
                 all layers together, and only rungs that are cheaper (faster) are taken. latency needs a clock
    allocate     how a budget is shared: sum (least sum of squared relative errors), max (least largest error), uniform
    worth        what counts as lost in a budget: error (the share of a layer's energy, alike in all layers), or loss (more in
                 layers whose error the loss feels more, by one pass back on data, and without end where all of a layer goes)
    multiple     ranks are rounded to multiples of this, which is what blocked kernels run fast on
    strength     of vbmf: 1 goes to its ranks, 0.5 half of the way from the largest
    whiten       decompose W·L with E[x·xᵀ] = L·Lᵀ, so that errors are those of activations
    reconstruct  none, linear or relu: refit the numbers on data, layer after layer (factor/reconstruct)
    images       how many images whiten, reconstruct and worth look at
    skip         patterns of layers that stay as they are
    A layer whose chain would cost no fewer multiply-adds stays; `explain` says which and why.
    """

    identity: ClassVar[dict[str, Any]] = dict.fromkeys(RULES)

    method: str | tuple[str, ...] = "svd"
    rank: int | float | str | tuple[int, ...] | dict[str, int | float | str | tuple[int, ...]] | None = None
    energy: float | None = None
    error: float | None = None
    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    allocate: str = "sum"
    worth: str = "error"
    multiple: int = 1
    strength: float = 1.0
    whiten: bool = False
    reconstruct: str = "none"
    images: int = 512
    skip: tuple[str, ...] = ()

    @property
    def forms(self) -> list[type[Chain]]:
        """The forms to choose from."""
        names = (self.method,) if isinstance(self.method, str) else self.method
        for name in names:
            if name not in forms:
                raise UnknownName("factorization", name, forms)
        return [forms[name] for name in names]

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        given = [rule for rule in RULES if getattr(self, rule) is not None]
        if len(given) > 1:
            raise ConfigError(f"ranks follow one rule; `{given[0]}` and `{given[1]}` are two")
        if not self.forms:
            raise ConfigError("`method` names no factorization")
        for rule in RULES[1:]:
            value = getattr(self, rule)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"`{rule}` (={value}) is a share above 0 and at most 1")
        self._check_ranks()
        for option, value, known in (
            ("allocate", self.allocate, tuple(allocations)), ("reconstruct", self.reconstruct, ("none", "linear", "relu")),
            ("worth", self.worth, ("error", "loss")),
        ):  # fmt: skip
            if value not in known:
                raise ConfigError(f"`{option}` (={value}) is one of {', '.join(known)}")
        if self.worth == "loss" and given and given[0] not in BUDGETS:
            raise ConfigError(
                f"`worth` (=loss) shares ranks out within a budget, and `{given[0]}` decides for each layer alone; "
                f"leave it out, or give {', '.join(f'`{rule}`' for rule in BUDGETS)}"
            )
        if self.multiple < 1 or self.images < 1 or not 0 < self.strength <= 1:
            raise ConfigError(
                f"`multiple` (={self.multiple}) and `images` (={self.images}) are at least 1, "
                f"`strength` (={self.strength}) is above 0 and at most 1"
            )
        known_options = {name for form in self.forms for name in form.options}
        for name in self.options:
            if name not in known_options:
                raise ConfigError(f"`options`: {UnknownName('option of the form', name, known_options or ['none here'])}")
        if self.whiten and any(not form.whitens for form in self.forms):
            raise ConfigError(
                f"`whiten` does nothing for {', '.join(f.name for f in self.forms if not f.whitens)}; leave it out"
            )

    def _check_ranks(self) -> None:
        for rank in self.rank.values() if isinstance(self.rank, dict) else (self.rank,):
            if isinstance(rank, str) and rank not in (FULL, VBMF):
                raise ConfigError(f'`rank` (={rank}) is a number, a share, "{FULL}" or "{VBMF}"')
            if isinstance(rank, float) and not 0 < rank <= 1:
                raise ConfigError(f"`rank` (={rank}) as a share is above 0 and at most 1; write a rank as a whole number")
            if isinstance(rank, int) and rank < 1:
                raise ConfigError(f"`rank` (={rank}) must be at least 1")

    # --- deciding -----------------------------------------------------------------------------------------------------

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """One swap for every layer that is factorized. Raises `ModelError` for a network without a layer that could be."""
        with at(self.name):
            self.check()
            if self._rule is None:
                return []
            chosen, stays, able = self._decide(model, look, self._rule)
            if not able:
                reasons = "; ".join(f"{name}: {why}" for name, why in list(stays.items())[:3])
                raise ModelError(f"no layer can be factorized: {reasons or 'it has neither convolutions nor linear layers'}")
            return [edit for site, rung in chosen for edit in edits(site, rung)]

    def explain(self, model: nn.Module, look: Look) -> dict[str, str]:
        """The layers that stay as they are, each with the reason."""
        with at(self.name):
            self.check()
            return self._decide(model, look, self._rule)[1] if self._rule else {}

    @property
    def _rule(self) -> str | None:
        return next((rule for rule in RULES if getattr(self, rule) is not None), None)

    def _decide(self, model: nn.Module, look: Look, rule: str) -> tuple[list[tuple[Site, Rung]], dict[str, str], bool]:
        """What is factorized, why the rest stays, and whether any layer could be."""
        found, stays = sites(model, look.example, self.skip)
        offers = self._offers(model, found, look, stays)
        if not offers:
            return [], stays, False
        if rule in BUDGETS:
            return self._spend(model, offers, look, rule, stays), stays, True
        return self._each(offers, rule, stays), stays, True

    def _offers(self, model: nn.Module, found: list[Site], look: Look, stays: dict[str, str]) -> list[tuple[Site, list[Offer]]]:
        """What each layer could become; layers that no form serves are added to `stays`."""
        seen = moments(model, found, look.need_batches(self.name, self.images)) if self.whiten else {}
        offers = []
        for site in found:
            able, reasons = self._able(site)
            weight = kernel(site.layer).detach().cpu()
            if not finite(weight):
                stays[site.name] = NOT_FINITE
            elif able:
                offers.append((site, [self._offer(site, form, o, weight, seen.get(site.name)) for form, o in able]))
            else:
                stays[site.name] = "; ".join(reasons)
        return offers

    def _able(self, site: Site) -> tuple[list[tuple[type[Chain], dict[str, Any]]], list[str]]:
        """The forms that serve a layer with their options, or the reasons why none does."""
        pairs = [
            (form, {**form.options, **{k: v for k, v in self.options.items() if k in form.options}}) for form in self.forms
        ]
        reasons = [form.refuses(site.seen, **options) for form, options in pairs]
        able = [pair for pair, reason in zip(pairs, reasons, strict=True) if reason is None]
        if not able and site.seen.area == 1:
            able = [(forms["svd"], {})]
        return able, [reason for reason in reasons if reason is not None]

    def _offer(self, site: Site, form: type[Chain], options: dict[str, Any], weight: Tensor, moment: Tensor | None) -> Offer:
        if moment is not None:
            weight = whitened(weight, root(moment, options.get("groups", 1)))
        return Offer(site, form, options, weight, self.multiple)

    def _each(self, offers: Sequence[tuple[Site, list[Offer]]], rule: str, stays: dict[str, str]) -> list[tuple[Site, Rung]]:
        """Every layer on its own: the cheapest form at the ranks that the rule gives."""
        self._check_patterns([site.name for site, _ in offers])
        chosen = []
        for site, able in offers:
            wanted = self._wanted(site.name) if rule == "rank" else getattr(self, rule)
            if wanted is None:
                stays[site.name] = "no pattern of `rank` matches it"
                continue
            try:
                with at(site.name):
                    rungs = [self._ruled(offer, rule, wanted) for offer in able]
            except EditError as error:
                raise ConfigError(str(error)) from None
            best = min(rungs, key=lambda rung: rung.macs)
            if best.macs < site.macs:
                chosen.append((site, best))
            else:
                ranks = " and ".join(map(str, best.ranks))
                stays[site.name] = (
                    f"as `{best.form.name}` of rank {ranks} it takes {best.macs:,} multiply-adds, now {site.macs:,}"
                )
        return chosen

    def _ruled(self, offer: Offer, rule: str, value: Any) -> Rung:
        if rule == "energy":
            return offer.energy(value)
        if rule == "error":
            return offer.within(value)
        return offer.vbmf(self.strength) if value == VBMF else offer.given(value)

    def _wanted(self, name: str) -> Any:
        if not isinstance(self.rank, dict):
            return self.rank
        return next((rank for pattern, rank in self.rank.items() if fnmatchcase(name, pattern)), None)

    def _check_patterns(self, names: Sequence[str]) -> None:
        for pattern in self.rank if isinstance(self.rank, dict) else ():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(f"`rank`: no layer that can be factorized is called `{pattern}`; they are {', '.join(names)}")

    # --- budgets ------------------------------------------------------------------------------------------------------

    def _spend(
        self, model: nn.Module, offers: Sequence[tuple[Site, list[Offer]]], look: Look, rule: str, stays: dict[str, str]
    ) -> list[tuple[Site, Rung]]:
        """The ranks of least loss within a budget for the whole network."""
        ladders = [(site, [r for offer in able for r in offer.ladder() if r.macs < site.macs]) for site, able in offers]
        if self.worth == "loss":
            ladders = self._felt(model, ladders, look)
        if rule == "latency":
            return self._in_time(model, ladders, look, stays)
        whole = getattr(profile(model, look.example[:1]), rule)
        costs = [(getattr(site, rule), [getattr(rung, rule) for rung in rungs]) for site, rungs in ladders]
        asked = getattr(self, rule)
        return self._choose(ladders, costs, (asked - 1) * whole, f"`{rule}` (={asked})", whole, stays)

    def _felt(self, model: nn.Module, ladders: list[tuple[Site, list[Rung]]], look: Look) -> list[tuple[Site, list[Rung]]]:
        """Rungs that lose what the loss feels of it."""
        images, loss = look.need_batches("`worth` (=loss)", self.images), look.need_loss("`worth` (=loss)")
        feels = felt(model, [site for site, _ in ladders], images, loss, look.seed)
        return [(site, [replace(r, error=feels[site.name] * lost(r.error)) for r in rungs]) for site, rungs in ladders]

    def _in_time(
        self, model: nn.Module, ladders: list[tuple[Site, list[Rung]]], look: Look, stays: dict[str, str]
    ) -> list[tuple[Site, Rung]]:
        """As `_spend` by time; the whole choice is measured, and made again more tightly until it is surely fast enough."""
        assert self.latency is not None
        clock = look.need_clock(self.name)
        ladders = [(site, thinned(rungs, clock)) for site, rungs in ladders]
        costs = times(model, ladders, clock, len(look.example))
        now = clock(model)
        room = (self.latency - 1) * now
        best: tuple[float, list[tuple[Site, Rung]], dict[str, str]] = (math.inf, [], {})
        for _ in range(TRIES):
            tried = dict(stays)
            try:
                chosen = self._choose(ladders, costs, room, f"`latency` (={self.latency})", now, tried)
            except BudgetError:  # of tighter choices than were asked for, there may be none
                if best[0] > self.latency + 1e-9:
                    raise
                break
            made = outlined(model, [edit for site, rung in chosen for edit in edits(site, rung)])
            left = share(clock, made, model)
            best = min(best, (left, chosen, tried), key=lambda found: found[0])
            if left <= self.latency * SURE or not chosen:
                break
            room += 1.1 * (self.latency * SURE - left) * now
        if best[0] > self.latency + 1e-9:
            raise BudgetError(f"`latency` (={self.latency}) is not reached: {best[0]:.3f} at best after {TRIES} tries")
        stays |= best[2]
        return best[1]

    def _choose(
        self,
        ladders: Sequence[tuple[Site, list[Rung]]],
        costs: Sequence[tuple[float, list[float]]],
        room: float,
        budget: str,
        whole: float,
        stays: dict[str, str],
    ) -> list[tuple[Site, Rung]]:
        """The rungs that `allocate` picks; together with what stays they cost at most `room` (not above 0) more than now."""
        cheaper = [
            [(cost, rung) for cost, rung in zip(rungs_cost, rungs, strict=True) if cost < own]
            for (_, rungs), (own, rungs_cost) in zip(ladders, costs, strict=True)
        ]
        choices = [
            [Choice(own, 0.0), *(Choice(cost, rung.error) for cost, rung in pairs)]
            for (own, _), pairs in zip(costs, cheaper, strict=True)
        ]
        now = sum(own for own, _ in costs)
        picked = allocations[self.allocate](choices, now + room)
        if picked is None:
            least = math.ceil(1000 * (whole - now + floor(choices)) / whole) / 1000  # upwards, so that asking for it works
            raise BudgetError(f"{budget} is below the floor: at the smallest ranks {least:.3f} of the cost is left")
        chosen = []
        for (site, _), pairs, number in zip(ladders, cheaper, picked, strict=True):
            if number:
                chosen.append((site, pairs[number - 1][1]))
            else:
                stays[site.name] = "the budget is met without it" if pairs else "no rank of it is cheaper"
        return chosen

    # --- numbers ------------------------------------------------------------------------------------------------------

    def refit(self, before: nn.Module, after: nn.Module, look: Look) -> None:
        """Weights from data: whitened decompositions, then reconstruction, where they are asked for."""
        if not self.whiten and self.reconstruct == "none":
            return
        with at(self.name):
            made = {name: m for name, m in after.named_modules() if isinstance(m, Chain)}
            fresh = [s for s in sites(before, look.example)[0] if s.name in made and _differs(s.layer, made[s.name])]
            batches = look.need_batches(self.name, self.images)
            if self.whiten and fresh:
                seen = moments(before, fresh, batches)
                for site in fresh:
                    absorb_whitened(made[site.name], site.layer, seen[site.name])
            if self.reconstruct != "none":
                names = [site.name for site in fresh]
                relu = self.reconstruct == "relu"
                reconstruct(before, after, names, batches, relu=relu, seed=look.seed, example=look.example)


def _differs(was: nn.Module, now: Chain) -> bool:
    """Whether a layer has been factorized by this very plan: a chain that was there before still has its weights."""
    if not isinstance(was, Chain) or type(was) is not type(now) or was.ranks_made != now.ranks_made:
        return True
    return not all(torch.equal(a, b) for a, b in zip(was.state_dict().values(), now.state_dict().values(), strict=True))
