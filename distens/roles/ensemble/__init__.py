"""The ensemble role: members are searched for, selected, combined, and distilled into a student.

plan ─► schedule: promote, or start ─► search: propose ─► pack ─► runner ─► reports, failures ─┐
              ▲                                                                                │
              └── history ◄────────────────────────────────────────────────────────────────────┘
select ─► student, baselines ─► combine ─► calibrate ─► outcome
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from distens.config.config import Config
    from distens.data.load import Loaded
    from distens.lifecycle.results import Outcome
    from distens.lifecycle.session import Session
    from distens.roles.ensemble.plan import Plan


@dataclass(frozen=True)
class Ensemble:
    """The ensemble role: members with settings and seeds of their own learn from all rows, a bootstrap or a view."""

    unused: ClassVar[tuple[str, ...]] = ("merge",)
    sweep_rows: ClassVar[tuple[str, ...]] = ("ensemble", "best_single", "student")

    def plan(self, config: Config) -> Plan:
        """Return the plan of a config (see `distens.roles.protocol.Role`)."""
        from distens.roles.ensemble.plan import check

        return check(config)

    def data(self, plan: Plan) -> Loaded:
        """Return the rows, divided and encoded."""
        from distens.data.load import load

        return load(plan.config.data, plan.config.seed)

    def carry_out(self, plan: Plan, session: Session) -> Outcome:
        """Search, train what comes after it, and return the outcome."""
        from distens.roles.ensemble.run import Run

        return Run(plan, session).outcome()

    def size(self, identity: Mapping[str, Any]) -> str:
        """Return the number of members that the search starts."""
        return str(identity["search"]["members"])
