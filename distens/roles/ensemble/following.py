"""The changes of its config that an ensemble's run can follow: more members, and other decisions about those it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distens.addresses import is_address
from distens.errors import ConfigError
from distens.lifecycle.going_on import Change, refuse
from distens.lifecycle.ledger import Ledger
from distens.roles.ensemble.plan import EnsemblePlan
from distens.roles.ensemble.purpose import EnsemblePurpose

DECISIONS = ("select", "combine", "metric", "calibrate", "distill", "baselines")
"""The parts of a config that are decided from members' stored predictions."""

SEARCHES = ("search.members", "search.seconds", "search.stop_at", "schedule.maximum")
"""The values of a config that say how far the search goes."""

ALLOWED = (
    f"A run goes on with more of {', '.join(SEARCHES[:2])}, another {SEARCHES[2]}, a {SEARCHES[3]} that is raised by "
    f"eta; and {', '.join(DECISIONS)} are decided anew from what it has. Storage, runtime and tracking may differ."
)

REASONS = {
    "data": "Its members were trained and measured on the rows as they were.",
    "members": "Its members are of the families and ranges as they were.",
    "seed": "Its splits, and the settings and seeds of its members, follow from the seed.",
    "name": "The name is that of its folder, its experiment and its models.",
    "schedule": "Its members were compared at the rungs as they were.",
}


def check_changes(changes: Sequence[Change], path: str) -> None:
    """Check that all changes are of values that decide, or of how far the search goes."""
    for change in changes:
        if change.key not in (*DECISIONS, *SEARCHES):
            section = change.key.partition(".")[0]
            refuse(path, change, REASONS.get(section, "Its members were found with the value as it was."), ALLOWED)


def follow(
    plan: EnsemblePlan, changes: Sequence[Change], ledger: Ledger, results: Mapping[str, Any] | None, path: str
) -> str | None:
    """Return the reason why the search has ended, if the changes concern decisions alone; None if it goes on.

    See `distens.roles.protocol.GoesOn`.
    """
    further = [change for change in changes if change.key in SEARCHES]
    for change in further:
        _CHECKS.get(change.key, _check_nothing)(plan, change, ledger, path)
    if further:
        _check_effect(plan, further, ledger, path)
        return None
    if ledger.ended is not None or results is None:
        return ledger.ended
    return str(results.get("search_ended") or f"with all {ledger.count(EnsemblePurpose.SEARCH)} members started")


def _check_nothing(plan: EnsemblePlan, change: Change, ledger: Ledger, path: str) -> None:
    """Let the change pass."""


def _check_members(plan: EnsemblePlan, change: Change, ledger: Ledger, path: str) -> None:
    started = ledger.count(EnsemblePurpose.SEARCH)
    if change.now is not None and change.now <= started:
        raise ConfigError(
            f"{path}: search.members: {started} members were started already; give more than that, found {change.now}. "
            "`select` decides how many are in the ensemble"
        )


def _check_seconds(plan: EnsemblePlan, change: Change, ledger: Ledger, path: str) -> None:
    if change.then is None:
        refuse(
            path, change, "The time of its search was not counted.", "search.members and search.stop_at end it, too."
        )
    if change.now is not None and change.now <= ledger.elapsed:
        raise ConfigError(
            f"{path}: search.seconds: the search has run for {ledger.elapsed:.0f} s; give more than that, found "
            f"{change.now:g}"
        )


def _check_maximum(plan: EnsemblePlan, change: Change, ledger: Ledger, path: str) -> None:
    assert isinstance(plan.config.schedule, dict), "a plan's config has its options"
    if is_address(plan.config.schedule["kind"]):  # the meaning of `maximum` in a user's own schedule is not known here
        refuse(path, change, REASONS["schedule"], ALLOWED)
    deeper = [change.then * plan.config.schedule["eta"] ** k for k in range(1, 40)]
    if change.now not in deeper:
        raise ConfigError(
            f"{path}: schedule.maximum: {change.then} may rise to {', '.join(map(str, deeper[:3]))}, …, so "
            f"that the rungs stay as they are; found {change.now}"
        )


_CHECKS = {
    "search.members": _check_members,
    "search.seconds": _check_seconds,
    "schedule.maximum": _check_maximum,
}


def _check_effect(plan: EnsemblePlan, further: Sequence[Change], ledger: Ledger, path: str) -> None:
    """Check that there is something to train for a search that goes on."""
    if ledger.pending(EnsemblePurpose.SEARCH):
        return
    decision = plan.next(ledger.reports(EnsemblePurpose.SEARCH, plan.metric))
    seconds = plan.config.search.seconds
    why = ""
    if not decision.promote and not decision.start:
        started = ledger.count(EnsemblePurpose.SEARCH)
        why = f"all {started} members are trained; search.members asks for more"
    elif seconds is not None and ledger.elapsed >= seconds:
        why = f"the search has run for {ledger.elapsed:.0f} s; search.seconds asks for more"
    if why:
        raise ConfigError(f"{path}: {further[0].key}: has no effect, as {why}")
