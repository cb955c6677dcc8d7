"""Shared code of a federation's works: the source of clients' rows, the network, and the server's knowledge."""

from __future__ import annotations

from typing import cast

from distens import registry
from distens.distill.protocol import Knowledge
from distens.members.client import Client
from distens.records import Integers, Task, settings_key
from distens.roles.federated.clients import ClientData
from distens.runtime.protocol import RunContext, WorkContext

_PATTERNS: dict[tuple[str, tuple[int, ...], int], Client] = {}


def clients_of(context: WorkContext) -> ClientData:
    """Return the source of the clients' rows."""
    assert context.shared.role_data is not None, "a client has rows"
    return cast(ClientData, context.shared.role_data)


def build_client(task: Task, shared: RunContext) -> Client:
    """Build an untrained client of a task's settings."""
    member = registry.build_member(task.settings, task.id)
    dataset = shared.dataset
    member.begin(dataset.inputs["search"].shape[1:], len(dataset.classes), 0)
    return member


def kept_pattern(task: Task, shared: RunContext) -> Client:
    """Return a client of a task's settings that this process keeps, with the weights of its last use.

    Each use writes over the weights; to build a new one takes longer than to fill this one.
    """
    dataset = shared.dataset
    key = (settings_key(task.settings), dataset.inputs["test"].shape[1:], len(dataset.classes))
    if key not in _PATTERNS:
        _PATTERNS.clear()
        _PATTERNS[key] = build_client(task, shared)
    return _PATTERNS[key]


def knowledge(shared: RunContext, counts_MC: Integers) -> Knowledge:
    """Return the server's knowledge (see `distens.distill.protocol.Knowledge`)."""
    dataset = shared.dataset
    labelled = dataset.examples("search") if len(dataset.labels["search"]) else None
    return Knowledge(dataset.inputs["test"].shape[1:], len(dataset.classes), *dataset.bounds, labelled, counts_MC)
