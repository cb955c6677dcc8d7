"""From a training loop of the user's own to an ensemble, which is selected, measured, bundled and registered as usual.

    data = distens.load_data("config.yaml")                       # the rows that members may see
    members = [distens.member(train(data, seed), data) for seed in range(8)]
    result = distens.ensemble(members, "config.yaml")

The config says where the rows come from, and how members are selected and combined; it needs no `members`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distens import coordinator, registry
from distens.config.config import Config, parse_config, read_config_values
from distens.data.dataset import Dataset
from distens.data.load import LoadedData
from distens.data.load import load_data as load_rows
from distens.errors import ConfigError, RunError
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.progress import ProgressEvent, Watch
from distens.lifecycle.results import Result
from distens.lifecycle.session import silent
from distens.lifecycle.work._training import write_report
from distens.lifecycle.work.train import Train
from distens.members.module import Module, build_network
from distens.members.protocol import Member
from distens.records import Settings, State, Task, TaskOutcome, settings_key
from distens.roles.ensemble.plan import EnsemblePlan, build_plan, load
from distens.roles.ensemble.purpose import EnsemblePurpose
from distens.runtime.protocol import RunContext
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.training import inspection, network
from distens.training.context import Context

if TYPE_CHECKING:
    from torch import nn

NO_FOLDS = "data.folds: a loop of your own trains members on *train* alone; leave it out"

Source = Config | Mapping[str, Any] | str | Path
"""A config, its values, or its YAML file."""


def load_data(config: Source) -> Dataset:
    """Return the rows of a config as arrays: `inputs[split]` of all splits, `targets["train"]` and `targets["search"]`.

    Targets of *combine*, which weigh and calibrate an ensemble, and of *test*, which is read once for the table, are
    not among them. Only the config's `data` and `seed` matter; it needs no `members`. Arrays are read-only.

    Raises:
        ConfigError, DataError: the config is not valid, or its data cannot be read.
    """
    made = parse_config({"name": "data", "members": {"own": {}}, **read_config_values(config)})
    if made.data.folds is not None:
        raise ConfigError(NO_FOLDS)
    return load_rows(made.data, made.seed).dataset.for_members()


def member(trained: nn.Module, data: Dataset, path: str = "", options: Mapping[str, Any] | None = None) -> Module:
    """Return a member made of a network that a loop of the user's own has trained, as it is now.

    Args:
        trained: the network, whose forward turns inputs (N, …) into logits_NC.
        data: the rows, as `load_data` returns them.
        path: `package.module:Class`, by which the network is built again; empty: its class's own.
        options: the arguments with which it was made, as JSON values; `input_shape` and `classes` are filled in.

    Raises:
        ConfigError: the class cannot be imported by its path, or not be made with these options.
        Refused: the network gives no logits; or once it is built again and loaded, it predicts something else.
    """
    if not isinstance(data.target, Classes):
        raise ConfigError("member: a network of a loop of your own can only learn classes so far")
    cls = type(trained)
    if not path and cls.__module__.startswith("torch.nn."):
        raise ConfigError(
            f"member: torch's {cls.__qualname__} does not say how it was made; make it in the "
            "constructor of a class of your own"
        )
    settings = {
        "kind": "module",
        "path": path or f"{cls.__module__}:{cls.__qualname__}",
        "options": dict(options or {}),
    }
    made: Module = registry.build_member(settings, "member")
    inputs, classes = data.inputs["train"], len(data.classes)
    shape = tuple(inputs.shape[1:])
    with _modes_kept(trained):
        build = partial(build_network, made.path, made.options, shape, classes, restoring=True)
        inspection.inspect_restored(trained, partial(network.restore_built, build), inputs, classes)
        made.load(State(network.to_arrays(trained), {"input_shape": list(shape), "classes": classes}))
    made.to(next((str(p.device) for p in trained.parameters()), "cpu"))
    return made


@contextmanager
def _modes_kept(trained: nn.Module) -> Iterator[None]:
    """Let every part of a network train or predict afterwards as before: the loop goes on."""
    modes = [(part, part.training) for part in trained.modules()]
    yield
    for part, training in modes:
        part.training = training


def settings_of(made: Member) -> Settings:
    """Return the settings from which a member is built again; of a network's, only what is not the default.

    The defaults, such as a number of epochs, say nothing of a loop of the user's own.
    """
    settings = registry.resolve_options(made)
    if isinstance(made, Module):
        usual = {name: option.default for name, option in registry.options(Module).items()}
        settings = {key: value for key, value in settings.items() if key == "kind" or value != usual[key]}
    return {"family": registry.plugin_kind(made), **settings}


def count_parameters(made: Member) -> dict[str, float]:
    """Return `parameters` of a member that is a network; nothing for other members, whose `fit` counts them."""
    arrays = made.state().arrays.values() if isinstance(made, Module) else ()
    return {"parameters": float(sum(array.size for array in arrays))} if arrays else {}


def ensemble(
    members: Sequence[Member] | Mapping[str, Member],
    config: Source,
    *,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> Result:
    """Select, combine, calibrate, evaluate, bundle and register an ensemble of members that are trained already.

    This is a run (see `distens.run`) whose search is done.

    Args:
        members: trained members (see `member`); in a mapping by their names, else they are m0000, m0001, ….
        config: the config, which needs no `members`.
        metrics: name -> numbers to store with a member; `seconds` is the time of its training.
        overwrite: delete a run of the same config first.
        watch: is called with the progress.

    Raises:
        ConfigError: the config is not valid, or there is no member.
        RunError: there is a run of this config already.
    """
    named = dict(members) if isinstance(members, Mapping) else {f"m{i:04d}": one for i, one in enumerate(members)}
    if not named:
        raise ConfigError("ensemble: no members")
    settings, extra = {name: settings_of(one) for name, one in named.items()}, metrics or {}
    resolved = parse_config(with_members(config, settings.values(), len(named)))
    if resolved.data.folds is not None:
        raise ConfigError(NO_FOLDS)

    def outcomes(store: Store, loaded: LoadedData) -> Iterator[tuple[Task, TaskOutcome]]:
        shared = RunContext(store, loaded.dataset.for_members())
        for name, one in named.items():
            task = Task(name, EnsemblePurpose.SEARCH, settings[name], 0, work=Train())
            found = {"seconds": 0.0, **count_parameters(one), **extra.get(name, {})}
            yield task, write_report(task, one, found, shared, Context(0))

    return deliver(build_plan(resolved), outcomes, overwrite, watch or silent)


def with_members(config: Source, settings: Iterable[Settings], count: int) -> dict[str, Any]:
    """Return a config's values for a search of `count` members that is done.

    If the config has no `members`, each settings among the given ones become a family.

    Raises:
        ConfigError: the config asks for what would train such members again.
    """
    values = read_config_values(config)
    values.pop("sweep", None)
    if "members" not in values:
        if "seed_ensemble" in values.get("baselines", ()):
            raise ConfigError("baselines: `seed_ensemble` has no effect: a loop of your own trained the members")
        different = list({settings_key(own): own for own in settings}.values())
        values["members"] = {
            f"{own['family']}-{i}" if len(different) > 1 else own["family"]: {
                k: v for k, v in own.items() if k != "family"
            }
            for i, own in enumerate(different)
        }
    return {**values, "schedule": "none", "search": {"kind": "random", "members": count}}


def deliver(
    plan: EnsemblePlan,
    outcomes: Callable[[Store, LoadedData], Iterator[tuple[Task, TaskOutcome]]],
    overwrite: bool,
    watch: Watch,
) -> Result:
    """Journal tasks whose work is done elsewhere, and do the rest of the run.

    Args:
        outcomes: yields the tasks with their outcomes, whose files it writes into the run's folder.

    Raises:
        RunError: there is a run of this config already.
    """
    store = coordinator.open_storage(plan.config)
    if store.exists("run.json") and not overwrite:
        raise RunError(f"{store.url}: there is a run of this config already; pass `overwrite=True` to replace it")
    store.delete()
    loaded = load(plan)
    watch(ProgressEvent("data", store.url, path=store.url))
    ledger = Ledger(store)
    for task, outcome in outcomes(store, loaded):
        ledger.ask([task])
        ledger.tell([outcome])
    return coordinator.carry_out(plan, store, watch, data=loaded)
