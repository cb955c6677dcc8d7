"""The ensemble role: members are searched for, selected, combined, and distilled into a student.

plan ─► schedule: promote, or start ─► search: propose ─► pack ─► runner ─► reports, failures ─┐
              ▲                                                                                │
              └── history ◄────────────────────────────────────────────────────────────────────┘
select ─► student, baselines ─► combine ─► calibrate ─► outcome
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from distens.config.config import Config
    from distens.data.load import LoadedData
    from distens.lifecycle.going_on import Change
    from distens.lifecycle.ledger import Ledger
    from distens.lifecycle.results import Outcome
    from distens.lifecycle.session import Session
    from distens.roles.ensemble.plan import EnsemblePlan


@dataclass(frozen=True)
class Ensemble:
    """The ensemble role: members with settings and seeds of their own learn from all rows, a bootstrap or a view."""

    unused: ClassVar[tuple[str, ...]] = ("merge",)
    sweep_rows: ClassVar[tuple[str, ...]] = ("ensemble", "best_single", "student")

    def plan(self, config: Config) -> EnsemblePlan:
        """Return the plan of a config (see `distens.roles.protocol.Role`)."""
        from distens.roles.ensemble.plan import build_plan

        return build_plan(config)

    def data(self, plan: EnsemblePlan) -> LoadedData:
        """Return the rows, divided and encoded."""
        from distens.roles.ensemble.plan import load

        return load(plan)

    def carry_out(self, plan: EnsemblePlan, session: Session) -> Outcome:
        """Search, train what comes after it, and return the outcome."""
        from distens.roles.ensemble.run import EnsembleRun

        return EnsembleRun(plan, session).outcome()

    def check_changes(self, changes: Sequence[Change], path: str) -> None:
        """Check that all are of values that decide, or of how far the search goes.

        Raises:
            ConfigError: another value was changed.
        """
        from distens.roles.ensemble.following import check_changes

        check_changes(changes, path)

    def follow(
        self,
        plan: EnsemblePlan,
        changes: Sequence[Change],
        ledger: Ledger,
        results: Mapping[str, Any] | None,
        path: str,
    ) -> str | None:
        """Return the reason why the search has ended, if only decisions changed (see `distens.roles.protocol.GoesOn`).

        Raises:
            ConfigError: a change cannot be followed by this run, or has no effect.
        """
        from distens.roles.ensemble.following import follow

        return follow(plan, changes, ledger, results, path)

    def size(self, identity: Mapping[str, Any]) -> str:
        """Return the number of members that the search starts, or what decides it: a time, or the schedule."""
        search = identity["search"]
        if search["members"] is not None:
            return str(search["members"])
        seconds = search.get("seconds")  # left out of an identity where it is not set
        return "scheduled" if seconds is None else f"{seconds:g} s"
