"""The federated role: clients train on rows that stay with them; the server merges, or distils, what they learned.

plan ─► who has which rows ─┬─► rounds: draw clients ─► train ─► refuse what cannot be ─► merge ─► …  ─┬─► table
                            └─► one shot: every client once ─► merge · weigh · distil without rows ────┘
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
    from distens.roles.federated.plan import FederatedPlan


@dataclass(frozen=True)
class Federated:
    """The federated role: clients learn from rows of their own, which never leave their actors."""

    unused: ClassVar[tuple[str, ...]] = ("search", "schedule", "select", "combine")
    sweep_rows: ClassVar[tuple[str, ...]] = ()

    def plan(self, config: Config) -> FederatedPlan:
        """Return the plan of a config (see `distens.roles.protocol.Role`)."""
        from distens.roles.federated.plan import build_plan

        return build_plan(config)

    def data(self, plan: FederatedPlan) -> LoadedData:
        """Return the server's rows; those of *train* are divided among the clients."""
        from distens.data.load import load_data

        return load_data(plan.config.data, plan.config.seed)

    def carry_out(self, plan: FederatedPlan, session: Session) -> Outcome:
        """Train the clients, in rounds or once, make the server's models of them, and return the outcome."""
        from distens.roles.federated.run import FederatedRun

        return FederatedRun(plan, session).outcome()

    def check_changes(self, changes: Sequence[Change], path: str) -> None:
        """Check that nothing but the number of rounds changed.

        Raises:
            ConfigError: another value was changed, there are fewer rounds, or the run is of one shot.
        """
        from distens.roles.federated.following import check_changes

        check_changes(changes, path)

    def follow(
        self,
        plan: FederatedPlan,
        changes: Sequence[Change],
        ledger: Ledger,
        results: Mapping[str, Any] | None,
        path: str,
    ) -> str | None:
        """Return None: the rounds go on (see `distens.roles.protocol.GoesOn`)."""
        return None

    def size(self, identity: Mapping[str, Any]) -> str:
        """Return the number of clients, as far as the config gives it."""
        section = identity["federated"]
        return f"{section['clients'] or len(section['sources']) or '?'} clients"
