"""The protocol of a role: what a run trains, and what it makes of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from distens.config.config import Config
from distens.lifecycle.going_on import Change
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.results import Outcome
from distens.lifecycle.session import Data, Plan, Session

PlanOfRole = TypeVar("PlanOfRole", bound=Plan)


class Role(Protocol[PlanOfRole]):
    """A kind of run: what it trains, and what it makes of that.

    It is a folder in `distens/roles`, whose class has the folder's name; it has no options. The coordinator calls it::

        plan = role.plan(config)                        # or ConfigError, before anything starts
        with Session(plan, store, watch, info, lambda: role.data(plan)) as session:
            outcome = role.carry_out(plan, session)     # session.prepare, open, start, complete
            result = session.deliver(outcome)

    A role's own options are the section of the config that has the role's name (`federated:`). The role itself defines
    the shape of that section (`distens.config.config.section_of`).

    Attributes:
        unused: sections of the config that have no effect with this role.
        sweep_rows: rows of the table by which a sweep may choose among runs; empty: the role's runs cannot be swept.
    """

    unused: ClassVar[tuple[str, ...]]
    sweep_rows: ClassVar[tuple[str, ...]]

    def plan(self, config: Config) -> PlanOfRole:
        """Return the plan of a config; in the plan's own `config`, every default is filled in.

        Raises:
            ConfigError: something in the config would fail later, or have no effect.
        """
        ...

    def data(self, plan: PlanOfRole) -> Data:
        """Return the data that the run learns from and is measured on.

        Raises:
            DataError: they cannot be read.
        """
        ...

    def carry_out(self, plan: PlanOfRole, session: Session) -> Outcome:
        """Do all that is left to do, and return the outcome; tasks that a resumed session has done are not repeated."""
        ...

    def size(self, identity: Mapping[str, Any]) -> str:
        """Return the number of members, clients, … of a run, in words for a list, as far as the config gives it.

        Args:
            identity: the identity of the run's config (see `Config.identity`).
        """
        ...


class GoesOn(Role[PlanOfRole], Protocol[PlanOfRole]):
    """A role whose runs go on with a changed config: more is trained, or something else decided from what is trained.

    A run is resumed with `--set search.members=40`, and the coordinator asks the role whether that can be::

        role.check_changes(found := find_changes(info["identity"], config.identity()), store.url)  # or ConfigError
        plan = role.plan(config)
        ended = role.follow(plan, resolve(found, info["identity"], plan.config.identity()), ledger, results, store.url)
        go_on(plan.config, store, info, ledger, ended)
    """

    def check_changes(self, changes: Sequence[Change], path: str) -> None:
        """Check that a run can follow changes of its config, as far as the config tells.

        Args:
            changes: all of them, in the config as it was written.
            path: the run's folder, for messages.

        Raises:
            ConfigError: it cannot follow one of them.
        """
        ...

    def follow(
        self,
        plan: PlanOfRole,
        changes: Sequence[Change],
        ledger: Ledger,
        results: Mapping[str, Any] | None,
        path: str,
    ) -> str | None:
        """Return the reason why nothing more is searched for, if something is only decided anew; else None.

        Args:
            plan: the plan of the changed config.
            changes: all changes of the config; at least one.
            ledger: the run's tasks and their outcomes.
            results: the run's results, as it was asked last; None if it has not finished.
            path: the run's folder, for messages.

        Raises:
            ConfigError: a change cannot be followed by this run, or has no effect.
        """
        ...


PLUGINS = (Role,)
"""What a user's own plug-in of this family must be: one of these."""
