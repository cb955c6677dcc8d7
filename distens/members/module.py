"""A member that is a user's own network, given by its import path: a LightningModule, or any nn.Module."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from distens.addresses import ImportAddress
from distens.data.dataset import Examples
from distens.members._lightning_hooks import NEVER_CALLED, NO_EFFECT, NOT_ALLOWED
from distens.members._rows import Rows, hold_back_rows, select_examples
from distens.members._trainer_arguments import check_trainer_arguments
from distens.models.module import build_network, check_options, find_network
from distens.objectives.cross_entropy import CrossEntropy
from distens.records import Floats, Resources, Settings, State
from distens.training import inspection, network
from distens.training.context import Context
from distens.training.outputs import PROBABILITIES_ADVICE, PROBABILITIES_METRIC, are_probabilities

if TYPE_CHECKING:
    from torch import nn

WATCHED_ROWS = 256
"""The number of rows on which outputs are looked at."""

_WARNED: set[tuple[type, str]] = set()
_INSPECTED: set[tuple[Any, ...]] = set()


@dataclass
class Module:
    """A network whose `forward` turns inputs (N, …) into logits_NC, trained by Lightning's Trainer.

    A LightningModule brings its own training step, which gets batches (inputs, targets), and its own optimizers. If it
    has a validation step, a tenth of the rows is held back for that, by the member's seed, with each class's share. In
    its first epoch it must make a step, or change a weight or buffer in another way; with manual optimization, by the
    end of the epoch of its 32nd batch. Any other nn.Module minimises cross-entropy with AdamW. The class must be
    importable on every machine that trains members or predicts.

    Attributes:
        path: `package.module:Class`.
        options: arguments of the constructor, which also gets others by name (see `distens.models.module`).
        epochs: passes over the rows.
        batch_size: rows per step, summed over all processes.
        learning_rate: the learning rate of AdamW, for a plain nn.Module alone; 1e-3 if not given.
        rows: `all`, or `bootstrap`: rows drawn with replacement by the member's seed.
        processes: the number of processes that train the network together (see `distens.training.group`); the resources
            that the runtime gives a member are divided among them.
        gpus_per_process: 0, or 1 for a GPU for each of several processes, whatever the runtime gives a member.
        keep: `last`: the weights after the last epoch; `best`: those of the epoch with the best value, by what the
            module's ModelCheckpoint or else its EarlyStopping monitors, or else the lowest `val_loss`.
        trainer: further arguments of Lightning's Trainer, such as `precision: bf16-mixed` and `gradient_clip_val: 1`
            (see `distens.members._trainer_arguments` for those allowed).
    """

    path: Annotated[str, ImportAddress()]
    options: dict[str, Any] = field(default_factory=dict)
    epochs: Annotated[int, Ge(1)] = 30
    batch_size: Annotated[int, Ge(1)] = 64
    learning_rate: Annotated[float, Gt(0)] | None = None
    rows: Rows = "all"
    processes: Annotated[int, Ge(1)] = 1
    gpus_per_process: Literal[0, 1] = 0
    keep: Literal["last", "best"] = "last"
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cls = _find(self.path)
        _check_parts(cls, self.path)
        check_options(cls, self.options)
        if self.learning_rate is not None and network.is_lightning(cls):
            raise ValueError(
                f"learning_rate: {self.learning_rate} has no effect: {self.path} is a LightningModule, whose "
                "configure_optimizers decides; make it one of its `options`"
            )
        validates = network.is_lightning(cls) and _overrides(cls, "validation_step")
        if self.keep == "best" and not validates:
            raise ValueError(
                f"keep: best goes by a value that validation_step logs, and {self.path} has none; write keep: last"
            )
        check_trainer_arguments(self.trainer, self.processes, validates)
        if self.processes == 1 and self.gpus_per_process:
            raise ValueError(
                "gpus_per_process: has no effect with processes: 1; one process uses what the runtime gives its member"
            )
        if self.batch_size % self.processes:
            raise ValueError(f"batch_size: {self.batch_size} rows do not divide among {self.processes} processes")
        self._network: nn.Module | None = None
        self._input_shape: tuple[int, ...] = ()
        self._classes = 0

    @classmethod
    def occupied(cls, settings: Settings, given: Resources) -> Resources:
        """Return the resources that a member occupies: for each process, at least one CPU, and no GPU or whole ones.

        Raises:
            ValueError: the GPUs cannot be divided among the processes.
        """
        processes = int(settings.get("processes", 1))
        if processes == 1:
            return given
        gpus = float(processes) if settings.get("gpus_per_process") else given.gpus
        if gpus % processes:
            raise ValueError(
                f"gpus: {gpus:g} cannot be divided among {processes} processes, of which each needs a whole one"
            )
        return replace(given, cpus=max(given.cpus, float(processes)), gpus=gpus, processes=processes)

    def last_epoch(self) -> int | None:
        """Return the last epoch to which training can be extended; None: no limit.

        There is a limit for a LightningModule, which may ask its trainer for the number of epochs.
        """
        return self.epochs if network.is_lightning(_find(self.path)) else None

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        """Train the network; see `distens.training.lightning.fit_module` for metrics and errors.

        The first member of these settings in a process is inspected before and after its training (see
        `distens.training.inspection`).

        Raises:
            Refused: the network gives no logits, cannot be stored, or predicts something else once it was loaded.
        """
        self._input_shape, self._classes = tuple(examples.inputs.shape[1:]), examples.classes
        cls, build = _find(self.path), self._build()
        inspected = (cls, json.dumps(self.options, sort_keys=True, default=repr), self._input_shape, self._classes)
        if inspected not in _INSPECTED:
            inspection.inspect_untrained(build, self._restored, examples.inputs, self._classes, context.device)
        learned, validation = examples, None
        if network.is_lightning(cls) and _overrides(cls, "validation_step"):
            learned, validation = hold_back_rows(examples, context.seed)
        learned = select_examples(learned, self.rows, context.seed)
        metrics = self._train(build, learned, validation, context)
        assert self._network is not None
        self.predict(examples.inputs[:1])  # raises if outputs are not logits, or are not finite
        if inspected not in _INSPECTED:
            inspection.inspect_restored(self._network, self._restored, examples.inputs, self._classes)
            _INSPECTED.add(inspected)
        outputs_NC = network.raw_outputs(self._network, examples.inputs[:WATCHED_ROWS], self._classes)
        for name, why in NO_EFFECT.items():
            if getattr(self._network, name, None) is not None:
                _warn_once(cls, f"{self.path}: {name} has no effect: {why}")
        if not are_probabilities(outputs_NC):
            return metrics
        _warn_once(cls, f"{self.path}: {PROBABILITIES_ADVICE}")
        return {**metrics, PROBABILITIES_METRIC: 1.0}

    def _train(
        self, build: partial[nn.Module], learned: Examples, validation: Examples | None, context: Context
    ) -> dict[str, float]:
        names = ("epochs", "batch_size", "learning_rate", "keep", "trainer")
        course = {name: getattr(self, name) for name in names}
        loss = CrossEntropy().loss
        if self.processes > 1:
            from distens.training import group

            gpus = bool(self.gpus_per_process)
            metrics, arrays = group.fit_group(build, learned, context, self.processes, gpus, course, loss, validation)
            self._network = network.initialise(build, context.seed)
            network.load_arrays(self._network, arrays)
            return metrics
        from distens.training import lightning

        self._network = network.initialise(build, context.seed)
        options = lightning.TrainerOptions(**course)
        return lightning.fit_module(self._network, learned, context, options, loss, validation=validation)

    def begin(self, input_shape: tuple[int, ...], classes: int, seed: int) -> None:
        """Make the untrained network, whose first weights depend on the seed alone."""
        self._input_shape, self._classes = input_shape, classes
        self._network = network.initialise(self._build(), seed)

    def torch_module(self) -> nn.Module:
        """Return the network itself, inputs (N, …) -> logits_NC; changes to it show in `predict` and `state`."""
        assert self._network is not None, "there is no network before fit, load or begin"
        return self._network

    def rehearse(self, examples: Examples) -> Sequence[str]:
        """Try two rows, forward and backward (of a LightningModule, forward alone); return advice."""
        self._input_shape, self._classes = tuple(examples.inputs.shape[1:]), examples.classes
        if network.is_lightning(_find(self.path)):
            inspection.inspect_untrained(self._build(), self._restored, examples.inputs, self._classes, "cpu")
            return []
        return inspection.rehearse(self._build(), self._restored, examples, CrossEntropy().loss, self.batch_size)

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC, computed on the network's device: that of its training, or the CPU after `load`."""
        assert self._network is not None, "predict needs fit or load first"
        return network.predict_probs(self._network, inputs, self._classes)

    def state(self) -> State:
        """Return weights and buffers by name."""
        assert self._network is not None, "state needs fit or load first"
        meta = {"input_shape": list(self._input_shape), "classes": self._classes}
        return State(network.to_arrays(self._network), meta)

    def load(self, state: State) -> None:
        """Restore the network from a state, on the CPU."""
        self._input_shape, self._classes = tuple(state.meta["input_shape"]), state.meta["classes"]
        self._network = self._restored(state.arrays)

    def to(self, device: str) -> None:
        """Move the network to `cpu` or `cuda`; it then predicts on that device."""
        assert self._network is not None, "there is nothing to move before fit or load"
        self._network.to(device)

    def _build(self) -> partial[nn.Module]:
        return partial(build_network, self.path, self.options, self._input_shape, self._classes)

    def _restored(self, arrays: Mapping[str, Any]) -> nn.Module:
        return network.restore_built(partial(self._build(), restoring=True), arrays)


def _find(path: str) -> type:
    found = find_network(path)
    if not isinstance(found, type):
        raise ValueError(f"path: {path} must be a subclass of torch.nn.Module, found {found!r}")
    return found


def _overrides(cls: type, name: str) -> bool:
    """Return True if a class has a method that is not of torch or Lightning."""
    owner = next((base for base in cls.__mro__ if name in vars(base)), cls)
    base_classes = ("torch.nn.modules.module", "lightning.pytorch.core.")
    return getattr(cls, name, None) is not None and not owner.__module__.startswith(base_classes)


def _check_parts(cls: type, path: str) -> None:
    """Refuse a class that lacks what every member needs, or has what cannot have its effect; warn of unused parts."""
    needed = ["forward", *(["training_step", "configure_optimizers"] * network.is_lightning(cls))]
    for name in needed:
        if not _overrides(cls, name):
            raise ValueError(f"path: {path} has no {name}; it must define {' and '.join(needed)}")
    if network.is_lightning(cls):
        for name, why in NOT_ALLOWED.items():
            if _overrides(cls, name):
                raise ValueError(f"path: {path} has a {name}, which is never called: {why}. Leave it out")
        if unused := [name for name in NEVER_CALLED if _overrides(cls, name)]:
            is_called = f"{', '.join(unused)} {'are' if len(unused) > 1 else 'is'} never called"
            _warn_once(cls, f"{path}: {is_called}: distens predicts by forward, and measures itself")


def _warn_once(cls: type, text: str) -> None:
    """Warn of something about a class, once in a process."""
    if (cls, text) not in _WARNED:
        _WARNED.add((cls, text))
        warnings.warn(text, stacklevel=2)
