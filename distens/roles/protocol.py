"""What a run is made of and made into: a role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from distens.config.config import Config
from distens.lifecycle.results import Outcome
from distens.lifecycle.session import Data, Plan, Session

PlanOfRole = TypeVar("PlanOfRole", bound=Plan)


class Role(Protocol[PlanOfRole]):
    """One folder in `distens/roles`, whose class has the folder's name; it has no options.

    The coordinator is all that calls it::

        plan = role.plan(config)                        # or ConfigError, before anything starts
        with Session(plan, store, watch, info, lambda: role.data(plan)) as session:
            outcome = role.carry_out(plan, session)     # session.prepare, open, start, complete
            result = session.deliver(outcome)

    Its own options are the section of the config that is named as the role (`federated:`), whose shape it gives by
    itself (`distens.config.config.section_of`).

    Attributes:
        unused: sections of the config that have no effect with this role.
        sweep_rows: rows of the table by which a sweep may choose among runs; none: there are no sweeps of it.
    """

    unused: ClassVar[tuple[str, ...]]
    sweep_rows: ClassVar[tuple[str, ...]]

    def plan(self, config: Config) -> PlanOfRole:
        """Return the plan of a config; its own `config` is resolved: every default filled in.

        Raises:
            ConfigError: anything that would fail, or have no effect, later.
        """
        ...

    def data(self, plan: PlanOfRole) -> Data:
        """Return what the run learns from and is measured on.

        Raises:
            DataError: it cannot be read.
        """
        ...

    def carry_out(self, plan: PlanOfRole, session: Session) -> Outcome:
        """Do all that is left to do, and return the outcome; what a resumed session has is not done again."""
        ...

    def size(self, identity: Mapping[str, Any]) -> str:
        """Return how many members, clients, … a run asks for, in words for a list, as far as its config says so.

        Args:
            identity: of the config (see `Config.identity`).
        """
        ...


PLUGINS = (Role,)
"""What a user's own plug-in of this family must be: one of these."""
