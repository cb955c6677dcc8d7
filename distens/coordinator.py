"""One run, from a config to a result: a role plans the work and carries it out, inside a session.

    config ─► role.plan ─► Session: folder · journal · data · runner · tracker ─► role.carry_out ─► Outcome ─► delivered

Roles are found by name, like any plug-in; nothing in this module knows a particular one. A task that was journalled as
finished before the driver died is not done again: `resume` hands out the pending tasks (with the next attempt number,
the same settings and the same seed), and continues to decide from there.
"""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from distens import registry
from distens.addresses import is_address
from distens.config.config import Config, parse_yaml
from distens.config.sources import describe_edited
from distens.errors import (
    ConfigError,
    RunError,
    StorageError,
    StorageFailed,
    did_you_mean,
    report_damage,
)
from distens.evaluate import report
from distens.lifecycle import going_on, resuming
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.progress import ProgressEvent, Watch
from distens.lifecycle.results import Result
from distens.lifecycle.session import Data, Minimises, Plan, Session, silent
from distens.roles.protocol import GoesOn, Role
from distens.storage import editions
from distens.storage.store import Store
from distens.training.autologging import without_autologging


def role_of(config: Config) -> Role[Any]:
    """Return the role of a config.

    Raises:
        ConfigError: there is no role of that name.
    """
    known = registry.names("roles")
    if not is_address(config.role) and config.role not in known:
        raise ConfigError(f"role: unknown role {config.role!r}. {did_you_mean(config.role, known)}")
    return registry.find_plugin("roles", config.role, "role")()


def make_plan(config: Config) -> Plan:
    """Return the plan of one run.

    Raises:
        ConfigError: something in the config cannot be done, or has no effect.
    """
    if config.sweep is not None:
        if not role_of(config).sweep_rows:
            raise ConfigError(f"sweep: has no effect with role `{config.role}`; leave it out")
        raise ConfigError("sweep: has no effect on one run; `distens sweep` does them all. Leave it out")
    role = role_of(config)
    for name in role.unused:
        if getattr(config, name) != Config.model_fields[name].default:
            raise ConfigError(f"{name}: has no effect with role `{config.role}`{_describe_users(name)}; leave it out")
    return role.plan(config)


def _describe_users(section: str) -> str:
    """Return the roles of distens that use a section, in words for a message; an empty string if none does."""
    roles = [
        name for name in registry.names("roles") if section not in registry.find_plugin("roles", name, "role").unused
    ]
    return f" (it has one with {', '.join(roles)})" if roles else ""


def run(config: Config, watch: Watch | None = None, overwrite: bool = False, resume: bool = False) -> Result:
    """Train, search, combine, evaluate and store one run.

    Args:
        config: what to do.
        watch: called with an update after each dispatch and each outcome.
        overwrite: delete a run of the same config first.
        resume: continue a run of the same config, if there is one.

    Raises:
        DistensError: the run cannot be done as asked; the message says what is wrong, and where.
    """
    assert not (overwrite and resume), "either"
    plan = make_plan(config)
    store = open_storage(plan.config)
    if store.exists("run.json"):
        if not overwrite and _begun(store):  # else it failed before anything was trained
            if resume:
                info = _read_info(store)
                return carry_out(_as_last_asked(plan, store, info), store, watch or silent, info)
            raise RunError(_describe_there(plan.config, store))
        store.delete()
    return carry_out(plan, store, watch or silent, None)


def _describe_there(config: Config, store: Store) -> str:
    """Return the message that a run of a config is there already."""
    info, place, newest = _read_info(store), shlex.quote(store.url), editions.find_newest(store)
    hint = f"`distens report {place}` shows it" if newest else f"`distens resume {place}` continues it"
    state = "has finished" if newest else "was not finished"
    if "edition" in info:
        changes = going_on.find_changes(config.identity(), info["identity"])
        state += f", and something else was asked of it since ({'; '.join(map(str, changes))})"
        if 0 < newest < info["edition"]:
            hint += f", as far as it had finished; `distens resume {place}` continues it"
    if edited := describe_edited(config.model_dump(mode="json"), info.get("sources")):
        state = f"had other code: since it began, there were edits of {edited}"
    return (
        f"{store.url}: this run {state}; {hint}. `--overwrite` starts it afresh; another `seed` makes another run "
        "beside it"
    )


def _as_last_asked(plan: Plan, store: Store, info: dict[str, Any]) -> Plan:
    """Return the plan of a run as it was last asked, where that is not what it began with; else the given plan."""
    config = _read_config(store, info)
    if plan.config.identity() == info["identity"]:
        return plan
    places = {part: getattr(plan.config, part) for part in ("storage", "runtime", "tracking")}
    return make_plan(config.model_copy(update=places))


def _read_config(store: Store, info: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Return the config in a run's folder.

    A default that changed since the run's version is written out, in the config and in the identity in `info`.

    Args:
        info: the content of `run.json`.
    """
    where = f"{store.url}/config.yaml"
    with report_damage(where):
        text = store.read("config.yaml").decode()
    config = parse_yaml(text, where)
    if "search" not in role_of(config).unused and "all_families_before" not in config.search.model_fields_set:
        info["identity"]["search"]["all_families_before"] = 0
        overrides = ["search.all_families_before=0", *overrides]
    return parse_yaml(text, where, overrides) if overrides else config


def _begun(store: Store) -> bool:
    """Return True if anything was journalled in a run's folder, by whatever names its role uses for its journals."""
    folders = [name for name in store.names() if "." not in name and not store.exists(name)]
    return any(not name.startswith(".") for folder in folders for name in store.names(folder))


def _read_info(store: Store) -> dict[str, Any]:
    """Return the content of a run's `run.json`.

    Raises:
        RunError: there is no run, or a newer version wrote it.
        StorageError: the file is damaged.
    """
    try:
        info = store.read_json("run.json")
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise RunError(f"{store.url}: no run here (run.json is missing)") from error
        raise
    with report_damage(f"{store.url}/run.json"):
        resuming.check_format(info, store.url)
    return info


def resume(path: str, watch: Watch | None = None, overrides: Sequence[str] = ()) -> Result:
    """Resume a run that was interrupted, from its folder, or go on with one that has finished.

    Tasks that finished are not done again. What a finished run goes on to find is the next edition of its results; the
    earlier ones stay as they are (see `distens.storage.editions`).

    Args:
        path: the run's folder.
        watch: called with an update after each dispatch and each outcome.
        overrides: `key.key=value`, for `runtime` and `tracking`; and where the role can follow, for more members
            (`search.members=40`) or other decisions (`select=quadratic`). Any other change would make it another run.

    Raises:
        ConfigError: the config was changed, in the folder or by `overrides`, in a way that the run cannot follow.
        RunError, StorageError: there is no run to resume.
    """
    store = Store(path)
    info = _read_info(store)
    config = _read_config(store, info, overrides)
    found = going_on.find_changes(info["identity"], config.identity())
    if not found:
        return carry_out(make_plan(config), store, watch or silent, info)
    plan, data = _follow(config, found, store, info, watch or silent)
    return carry_out(plan, store, watch or silent, info, data)


def _follow(
    config: Config, found: Sequence[going_on.Change], store: Store, info: dict[str, Any], watch: Watch
) -> tuple[Plan, Data]:
    """Return the plan and the data of a run that goes on with a changed config; prepare its folder for that.

    If the data are not those of the run any more, nothing is prepared: the session refuses them.

    Raises:
        ConfigError: the run cannot follow the changes that were found.
    """
    role = role_of(config)
    if found[0].key == "role" or not registry.has_capability(role, GoesOn):
        why = f"A run of role `{info['identity'].get('role')}` is resumed as it was."
        going_on.refuse(store.url, found[0], why, "Only storage, runtime and tracking may differ.")
    role.check_changes(found, store.url)
    plan = make_plan(config)
    data = role.data(plan)
    changes = going_on.resolve(found, info["identity"], plan.config.identity())
    if changes and data.fingerprint == info["fingerprint"]:
        name, ledger = editions.file_of(editions.RESULTS, info.get("edition", 1)), Ledger(store)
        with report_damage(f"{store.url}/{name}"):
            results = dict(store.read_json(name)) if store.exists(name) else None
        going_on.go_on(plan.config, store, info, ledger, role.follow(plan, changes, ledger, results, store.url))
        watch(ProgressEvent("data", f"{store.url} goes on with {'; '.join(map(str, changes))}"))
    return plan, data


def carry_out(
    plan: Plan, store: Store, watch: Watch, info: dict[str, Any] | None = None, data: Data | None = None
) -> Result:
    """Do all that is left to do in a run, and return its result.

    Args:
        info: the content of `run.json`, for a run that is resumed; None for a new run.
        data: the run's data, if they were read before; None: the role reads them.
    """
    role = role_of(plan.config)
    try:
        with without_autologging(), Session(plan, store, watch, info, lambda: data or role.data(plan)) as session:
            result = session.deliver(role.carry_out(plan, session))
    except StorageFailed as error:
        again = f"once the storage works again, `distens resume {shlex.quote(store.url)}` continues the run"
        raise StorageFailed(f"{error}. No finished task is lost: {again}") from error
    watch(ProgressEvent("done", "finished"))
    return replace(
        result,
        notes=(*result.notes, *session.notes),
        metric=_metric(plan),
        data=partial(role.data, plan),
    )


def load_result(path: str) -> Result:
    """Return the newest result of a finished run, from its folder.

    Args:
        path: the run's folder: a local path or any pyarrow address.

    Raises:
        RunError: there is no run, or it has not finished.
        ConfigError, StorageError: the folder's config was changed, or a file is damaged.
    """
    store = Store(path)
    _read_info(store)
    if not (edition := editions.find_newest(store)):
        raise RunError(
            f"{store.url}: this run was not finished; `distens resume {shlex.quote(store.url)}` continues it"
        )
    with report_damage(f"{store.url}/config.yaml"):
        plan = make_plan(parse_yaml(store.read("config.yaml").decode(), f"{path}/config.yaml"))
    results = store.read_json(name := editions.file_of(editions.RESULTS, edition))
    with report_damage(f"{store.url}/{name}"):
        return Result(
            store.url,
            report.rows_of(results),
            results["missing"],
            results["verdict"],
            results.get("weights", {}),
            metric=_metric(plan),
            data=partial(role_of(plan.config).data, plan),
        )


def _metric(plan: Plan) -> str:
    """Return the key of what a run minimised, in its members' reports; "" if its role compares none."""
    return plan.metric if registry.has_capability(plan, Minimises) else ""


def open_storage(config: Config) -> Store:
    """Return the folder of a config's run, which may not be there yet.

    Raises:
        StorageError: the storage cannot be written.
    """
    probe = f".probe-{uuid.uuid4().hex}"  # a new name each time: several runs may start in one storage at once
    try:
        storage = Store(config.storage)
        storage.write(probe, b"", durable=False)
        storage.remove(probe)
    except StorageError as error:
        raise StorageError(f"storage: cannot be written: {error}") from error
    return Store(f"{config.storage.rstrip('/')}/{config.run_name()}")
