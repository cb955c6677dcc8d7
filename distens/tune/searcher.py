"""Any of our searches as a Searcher of Ray Tune.

    Tune: suggest ─► lost settings, points to evaluate, else search.propose(history) ─► journal ─► a trial's config
          on_trial_complete ─► journal ─► history

The searcher keeps only records, as JSON. So a restored searcher suggests the same as one that was never interrupted.
`Tuner.restore` brings back the trials that Tune knows. Trials that Tune forgot, because they came after its last
snapshot, are in the journal: the finished ones stay known, and the settings of unfinished ones are suggested again.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher
from threadpoolctl import threadpool_limits

from distens import registry
from distens.config.config import Config
from distens.errors import ConfigError, RunError, StorageError
from distens.metrics.protocol import shown_name
from distens.records import Address, Failure, Floats, History, Integers, Report, Settings, Task
from distens.roles.ensemble.plan import load
from distens.roles.ensemble.purpose import EnsemblePurpose
from distens.search.protocol import Search
from distens.seeding import derive, generator
from distens.storage.encoding import report_from_json
from distens.storage.store import Store
from distens.training.autologging import without_autologging
from distens.tune.book import TrialBook, key_of, value_of
from distens.tune.domains import from_json, space_to_json
from distens.tune.reporting import FOLDER_KEY, absolute, experiment_folder, planned
from distens.tune.spaces import TuneSpace

log = logging.getLogger("distens")

FORMAT = 1


class _NoPredictions(Exception):
    """An error: a search needs predictions that trials did not report."""


class DivBOSearch(Searcher):
    """A searcher of Ray Tune that suggests what one of our searches proposes from the reports of Tune's trials.

    If trials report their predictions by `distens.tune.report`, a search can look for diversity. Without predictions,
    or without `labels`, it continues as plain Bayesian optimisation and logs a warning once.

    Args:
        space: as for `tune.Tuner(param_space=…)`, which is used if no space is given here.
        metric: the metric that trials report; any name, `a/b` for a nested one. None: Tune's own `metric`.
        mode: `min` or `max`; None: Tune's own `mode`.
        search: one of `distens/search`, by name or as `{kind: name, option: …}`.
        labels: labels_N of the rows that trials predict for the search.
        storage: a folder for the journal, of this experiment alone; any pyarrow address. Without it, a driver that is
            killed loses the results since Tune's last snapshot.
        seed: the only source of randomness, except for functions of `tune.sample_from`.
        points_to_evaluate: configs to begin with; values that a config leaves out are drawn.

    Raises:
        ConfigError: an unknown search or option, or a space that cannot be searched.
    """

    CKPT_FILE_TMPL = "distens-search-{}.json"

    def __init__(
        self,
        space: Mapping[str, Any] | None = None,
        metric: str | None = None,
        mode: str | None = None,
        search: str | Mapping[str, Any] = "divbo",
        labels: Sequence[int] | Integers | None = None,
        storage: str | None = None,
        seed: int = 0,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        _check_objective(metric, mode)
        super().__init__(metric, mode)
        self._search: Search = registry.make_plugin("search", search, "search")
        self._space = TuneSpace(space) if space else None
        self._labels_N = None if labels is None else np.asarray(labels)
        self._storage, self._seed = absolute(storage) if storage else None, seed
        self._points = list(points_to_evaluate or ())
        self._book: TrialBook | None = None
        self._known = False  # True if Tune's trials are those that the book has as pending
        self._warned = False

    @classmethod
    def of(cls, config: Config | str | Path, **options: Any) -> DivBOSearch:
        """Return the search that a config describes, for trials of `distens.tune.trainable(config)`.

        Args:
            config: a config or its YAML file.
            options: arguments of the constructor that replace the config's.
        """
        plan = planned(config)
        given = {
            "metric": shown_name(plan.metric),
            "mode": "min" if plan.own_metric is None else plan.own_metric.mode,
            "search": plan.config.search.spec(),
            "labels": load(plan).dataset.labels["search"],
            "storage": experiment_folder(plan.config),
            "seed": plan.config.seed,
        }
        return cls(**{**given, **options})

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles the searcher with the tuner. Entries in a journal are read from the journal instead.
        return {**self.__dict__, "_book": None if self._storage else self._book, "_known": False}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Take Tune's objective and space; return False if a space was given before."""
        _check_objective(metric, mode)
        for name, ours, theirs in (("metric", self._metric, metric), ("mode", self._mode, mode)):
            if ours and theirs and ours != theirs:
                raise ConfigError(f"{name}: the search was given {ours!r} and tune.TuneConfig {theirs!r}")
        self._metric, self._mode = self._metric or metric, self._mode or mode
        if self._space is not None:
            return False
        self._space = TuneSpace(config)
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the config of a new trial."""
        space, book = self._ready(), self._opened()
        self._settle(book)
        if trial_id not in book.pending:
            settings = self._next(space, book)
            book.ask(Task(trial_id, EnsemblePurpose.SEARCH, settings, derive(self._seed, "member", trial_id)))
        return space.config(book.pending[trial_id].settings)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record a trial's last result; a trial without a result failed."""
        book = self._opened()
        if trial_id not in book.pending and trial_id not in book.done:
            return
        task = book.task(trial_id)
        value = value_of(result, str(self._metric), str(self._mode))
        if error or isinstance(value, str):
            why = "Tune reported that the trial failed" if error else str(value)
            book.tell(Failure(trial_id, task.attempt, "crashed", why, 0.0, platform.node()))
            return
        assert result is not None
        place, told = _reported(result)
        report = Report(trial_id, task.attempt, {}, float(result.get("time_total_s", 0.0)), 0, 0.0, "", {})
        told = report if told is None else replace(told, task_id=trial_id, attempt=task.attempt)
        book.tell(replace(told, metrics={self._key: value}), place)

    def add_evaluated_point(
        self,
        parameters: dict[str, Any],
        value: float,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """Record a config that was evaluated elsewhere; it has no predictions."""
        space, book = self._ready(), self._opened()
        drawn = space.space.draw(generator(self._seed, "given", len(book.entries)))
        name = f"given-{len(book.entries)}"
        book.ask(Task(name, EnsemblePurpose.SEARCH, space.settings(parameters, drawn), 0))
        self.on_trial_complete(name, {str(self._metric): value}, error)

    def save(self, checkpoint_path: str) -> None:
        """Write the state of the search as JSON."""
        Path(checkpoint_path).write_text(json.dumps(self.get_state(), allow_nan=False), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Restore the state that `save` wrote, and the journal's later entries.

        Raises:
            StorageError: the file does not hold such a state, or the journal belongs to another experiment.
        """
        try:
            self.set_state(json.loads(Path(checkpoint_path).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{checkpoint_path}: not the state of a DivBOSearch: {error}") from error

    def get_state(self) -> dict[str, Any]:
        """Return the state of the search as JSON values."""
        space = None
        if self._space is not None:
            with suppress(TypeError):  # no JSON values: `suggest` tells the user what to do
                space = space_to_json(self._space.param_space)
        entries = list(self._opened().entries)
        return {"format": FORMAT, "metric": self._metric, "mode": self._mode, "space": space, "entries": entries}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state that `get_state` returned, and the journal's later entries."""
        if state["format"] != FORMAT:
            raise StorageError(f"a state of format {state['format']}; this version reads format {FORMAT}")
        # Tune passes none of these again unless `Tuner.restore` is given a `param_space`.
        self._metric, self._mode = self._metric or state["metric"], self._mode or state["mode"]
        if self._space is None and state["space"] is not None:
            self._space = TuneSpace(from_json(state["space"]))
        self._opened().restore(state["entries"])
        self._known = True

    @property
    def book(self) -> TrialBook:
        """Return the book of the trials so far."""
        return self._opened()

    @property
    def _key(self) -> str:
        return key_of(str(self._metric), str(self._mode))

    def _opened(self) -> TrialBook:
        if self._book is None:
            self._book = TrialBook(Store(self._storage) if self._storage else None)
            strange = next((t for t in self._tasks(self._book) if self._space and not self._fits(t.settings)), None)
            if strange is not None:
                raise RunError(
                    f"{self._storage}: the journal here belongs to another space; its trial {strange.id} has "
                    f"{dict(strange.settings)}. Give each experiment a `storage` of its own"
                )
        return self._book

    def _tasks(self, book: TrialBook) -> list[Task]:
        return [*book.pending.values(), *(entry.task for entry in book.done.values())]

    def _fits(self, settings: Settings) -> bool:
        return self._space is not None and self._space.space.contains(settings)

    def _settle(self, book: TrialBook) -> None:
        """Mark the journal's pending trials as lost if no snapshot was restored: no process trains them then."""
        if not self._known:
            book.lose([])
            self._known = True

    def _ready(self) -> TuneSpace:
        if self._space is None:
            raise ConfigError(
                "DivBOSearch: no space; give `param_space` to tune.Tuner or `space` to the search. One that holds "
                "functions or other objects is not saved: give it to tune.Tuner.restore as well"
            )
        if not self._metric or not self._mode:
            raise ConfigError(
                "DivBOSearch: no objective; give `metric` and `mode` to tune.TuneConfig, for search and scheduler "
                "(Tune does not pass on what a scheduler alone is given), or to the search"
            )
        return self._space

    def _next(self, space: TuneSpace, book: TrialBook) -> Settings:
        if book.lost:
            return book.lost[0]
        if book.asked < len(self._points):
            drawn = space.space.draw(generator(self._seed, "points", book.asked))
            return space.settings(self._points[book.asked], drawn)
        labels_N = np.zeros(0, dtype=np.int64) if self._labels_N is None else self._labels_N
        history = book.history(self._key, labels_N, lambda name: self._predictions(book, name))
        try:
            return self._propose(self._search, history, space, book.asked)
        except _NoPredictions as error:
            if not self._warned:
                log.warning(
                    "%s: %s; continuing as plain Bayesian optimisation", registry.plugin_kind(self._search), error
                )
                self._warned = True
            return self._propose(_plain(self._search), history, space, book.asked)

    def _propose(self, search: Search, history: History, space: TuneSpace, number: int) -> Settings:
        with without_autologging(), threadpool_limits(limits=1, user_api="blas"):  # trials have the other cores
            return search.propose(history, space.space, 1, generator(self._seed, "search", number))[0]

    def _predictions(self, book: TrialBook, name: str) -> Floats:
        entry, address = book.done[name], None
        if isinstance(getattr(entry, "report", None), Report):
            address = entry.report.files.get("search")  # pyright: ignore[reportAttributeAccessIssue]
        if address is None:
            raise _NoPredictions(f"trial {name} did not report its predictions (see distens.tune.report)")
        if self._labels_N is None:
            raise _NoPredictions("`labels` of the predicted rows were not given")
        predictions_NK = Store(book.places[name]).read_predictions(address)
        if len(predictions_NK) != len(self._labels_N):
            raise RunError(
                f"trial {name} predicted {len(predictions_NK)} rows, but there are {len(self._labels_N)} `labels`"
            )
        return predictions_NK


def _check_objective(metric: Any, mode: Any) -> None:
    if metric is not None and not isinstance(metric, str):
        raise ConfigError(f"metric: one metric's name, found {metric!r}")
    if mode not in (None, "min", "max"):
        raise ConfigError(f"mode: found {mode!r}. Allowed: min, max")


def _reported(result: Mapping[str, Any]) -> tuple[str, Report | None]:
    """Return the folder and the report that a trial wrote by `distens.tune.report`; ("", None) without one."""
    if FOLDER_KEY not in result:
        return "", None
    found = json.loads(result[FOLDER_KEY])
    place = found.pop("storage")
    address = Address(**found)
    return place, report_from_json(Store(place).read_json(address.path, address))


def _plain(search: Search) -> Search:
    """Return `bayes`, a search that uses only the metric, with the options that it shares with the given search."""
    bayes = registry.find_plugin("search", "bayes", "search")
    given = registry.resolve_options(search)
    options = {name: given[name] for name in registry.options(bayes) if registry.same_option(type(search), bayes, name)}
    return registry.make_plugin("search", {"kind": "bayes", **options}, "search")
