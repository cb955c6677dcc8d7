"""Training of a user's network by Lightning's Trainer; only this file and its callbacks import Lightning.

Lightning makes the steps; this file controls randomness and storage: every epoch's order of rows and its dropout follow
from (seed, epoch), and checkpoints go through Lightning's own interface (`CheckpointIO`) as plain states, without
pickle. So a resumed training equals an uninterrupted one, including its schedulers and the module's own hooks.
"""

from __future__ import annotations

import math
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distens.data.dataset import Examples
from distens.errors import Diverged, Refused
from distens.records import LOGGED_PREFIX, State
from distens.seeding import derive
from distens.training._lightning_callbacks import BestWeights, LoggedValues, NumberLogger, admit_callbacks
from distens.training._lightning_parts import CHECKPOINT, FINAL, Loss, Order, Plain, StateIO
from distens.training.checkpoint import CheckpointTimer, decode_tree
from distens.training.context import Context
from distens.training.loop import budget_start, to_tensors
from distens.training.network import checksum_weights, flush_denormals, load_tensors, local_chance, parameters
from distens.training.surroundings import keep_interrupts, repeat_kernels, silence_lightning

MAX_BATCHES_WITHOUT_STEP = 32
"""The batches that a module with manual optimization may take for its first step, as it may gather the gradients of
several epochs; with automatic optimization an epoch is enough. Both are looked at between epochs only."""

LIGHTNING_FOLDER = Path(lightning.__file__).parent


@dataclass(frozen=True)
class TrainerOptions:
    """A course of training: the length, batch size and learning rate of a module's training, and further options.

    Attributes:
        epochs: passes over the rows.
        batch_size: rows per step, summed over all processes. A last step that would leave a process fewer than two
            rows is left out if there are full steps (batch normalisation needs two rows); rows of a last step that do
            not divide evenly among the processes are left out too.
        learning_rate: the learning rate of AdamW, for a plain network; a LightningModule configures its own optimizers.
        keep: `best` sets the weights of the best epoch at the end (see `BestWeights`), `last` those of the last one.
        trainer: further arguments of the Trainer, by name.
    """

    epochs: int
    batch_size: int
    learning_rate: float | None = None
    keep: Literal["last", "best"] = "last"
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """Return the values that the checkpoints of one training share; `keep` and `trainer` only if they are set."""
        values = asdict(self)
        if self.keep == "last":
            del values["keep"]
        if not self.trainer:
            del values["trainer"]
        return values


@dataclass(frozen=True)
class ProcessGroup:
    """A process's place in a group of processes with one device each: its rank, and the number of processes.

    The environment (MASTER_ADDR and the like) holds the address at which the processes meet.
    """

    rank: int
    processes: int


def fit_module(
    network: nn.Module,
    examples: Examples,
    context: Context,
    course: TrainerOptions,
    loss: Loss,
    group: ProcessGroup | None = None,
    validation: Examples | None = None,
) -> dict[str, float]:
    """Train a network in place, from its last checkpoint if there is one.

    Args:
        network: a LightningModule, which gets batches (inputs, targets), or any module that returns outputs_NK.
        loss: (outputs_NK, targets) -> the mean loss, for a plain network.
        group: this process's place in a group; None: it trains alone.
        validation: rows for the module's `validation_step`, after each epoch; None: there is no validation.

    Returns:
        `epochs`, `steps`, `train_loss`, `parameters`, `seconds`; see `distens.training.loop.fit_network`. They were
        measured: a module that stops itself has fewer epochs than planned, and one that returns no loss in its last
        epoch has no `train_loss`. Also the last value of everything that the module logged, as `logged.NAME`, and
        `best_epoch`, counted from 1, if the best weights are kept. The logged values of all epochs go to
        `context.logged`.

    Raises:
        Diverged: an epoch's loss is not finite.
        Refused: there are fewer rows than processes, or a checkpoint holds other objects than plain data; or Lightning
            does not take the module, or its training changed no weight: a module that makes no step is refused after
            its first epoch, or after MAX_BATCHES_WITHOUT_STEP with manual optimization, unless that changed weights or
            buffers; or a callback of the module or an argument of the Trainer cannot be used.
    """
    rank, processes = (group.rank, group.processes) if group else (0, 1)
    order = Order(len(examples.inputs), course.batch_size, context.seed, rank, processes)
    if not len(order):
        raise Refused(f"{len(examples.inputs)} rows are too few for {processes} processes")
    module = network
    if not isinstance(module, LightningModule):
        module = Plain(network, loss, course.learning_rate or 1e-3, examples.classes)
    identity = {**course.identity(), "seed": context.seed, "processes": processes}
    until, state = context.until(course.epochs), context.checkpoint.load()
    if state is not None and (state.meta.get("of") != identity or state.meta["epoch"] > until):
        state = None
    pace = CheckpointTimer(context.checkpoint, state.meta["seconds"] if state else 0.0)
    watch = _Watch(pace, context, rank, until, state, len(order))
    cuda = context.device.startswith("cuda")
    if course.trainer.get("sync_batchnorm") and not cuda:
        raise Refused("trainer.sync_batchnorm: torch has it for GPUs alone, and these processes have none")
    with (
        silence_lightning(type(network).__name__, LIGHTNING_FOLDER),
        local_chance(context.device),
        repeat_kernels(cuda),
        flush_denormals(),
        _folder(context.folder) as folder,
    ):
        torch.manual_seed(derive(context.seed, "train"))
        logger = NumberLogger(folder)
        best, logged = BestWeights() if course.keep == "best" else None, LoggedValues(logger)
        # `watch` comes after the others, as it saves what they have kept of the epoch that ended.
        checkpoints = StateIO(watch, state, identity)
        trainer = _make_trainer(
            max(course.epochs, until),
            cuda,
            group,
            plugins=[checkpoints],
            callbacks=[*filter(None, [best]), logged, watch],
            logger=logger,
            default_root_dir=folder,
            **course.trainer,
        )
        loader = DataLoader(
            TensorDataset(*to_tensors(examples)), sampler=order, batch_size=None, generator=torch.Generator()
        )
        if state is not None and _is_over(state, until):  # trained up to its budget or end, but not reported
            tree = decode_tree(state)
            load_tensors(module, tree.get(FINAL, tree["state_dict"]))
            for callback in filter(None, [best, logged]):
                if kept := tree["callbacks"].get(callback.state_key):
                    callback.load_state_dict(kept)
        else:
            with keep_interrupts(), _refusing(network):
                held = validation and _validation_loader(validation, course.batch_size)
                trainer.fit(module, loader, held, ckpt_path=CHECKPOINT if state else None)
            _check_progress(type(network).__name__, module, watch)
            checkpoints.finish(module)
    if best is not None:
        best.restore(module)
    network.to(context.device)
    context.logged.update(logged.values)
    return {
        "epochs": watch.epoch,
        "steps": watch.steps,
        **({} if watch.mean is None else {"train_loss": watch.mean}),
        "parameters": parameters(network),
        "seconds": pace.seconds(),
        **({} if context.budget is None else {"new_epochs": watch.epoch - watch.began}),
        **({"best_epoch": best.epoch} if best is not None and best.epoch else {}),
        **{f"{LOGGED_PREFIX}{name}": values[max(values)] for name, values in logged.values.items()},
    }


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """Yield the folder for what the module's callbacks write: the given one, or one that is removed afterwards."""
    with tempfile.TemporaryDirectory() if given is None else nullcontext(given) as folder:
        yield Path(folder)


def _make_trainer(
    epochs: int, cuda: bool, group: ProcessGroup | None, plugins: list[CheckpointIO], **more: Any
) -> Trainer:
    """Return a trainer that prints and writes nothing by itself."""
    return Trainer(
        max_epochs=epochs,
        num_sanity_val_steps=0,
        accelerator="gpu" if cuda else "cpu",
        devices=1,
        num_nodes=group.processes if group else 1,
        strategy=DDPStrategy() if group else "auto",
        plugins=[*plugins, *([TorchElasticEnvironment()] if group else [])],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **more,
    )


def _is_over(state: State, until: int) -> bool:
    """Return True if the training that left a checkpoint has nothing left to do."""
    return state.meta.get("stopped", False) or (state.meta["epoch"] == until and state.meta.get("ended", True))


def _validation_loader(validation: Examples, batch_size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*to_tensors(validation)), batch_size=batch_size, generator=torch.Generator())


def _check_progress(name: str, module: LightningModule, watch: _Watch) -> None:
    """Refuse a module whose training changed nothing that it predicts with."""
    if (watch.resumed and watch.steps) or checksum_weights(module) != watch.weights_before:
        return
    if watch.steps:
        why = f"its {watch.steps} steps had no effect: is the learning rate 0, or every weight frozen?"
    elif not module.automatic_optimization:
        why = "it made no step: with manual optimization, training_step must call the step of an optimizer"
    elif watch.mean is None:
        why = "it made no step: training_step must return the loss, and returned none"
    else:
        why = "it made no step: configure_optimizers must return an optimizer of the module's weights"
    raise Refused(f"{name}: no weight changed in {watch.epoch} epoch{'s' * (watch.epoch > 1)}; {why}")


class _Watch(Callback):
    """A callback that seeds each epoch, counts and sums what happens, saves between epochs, and stops at the budget.

    Attributes:
        epoch, steps: the number of epochs and of steps made, with those before an interruption.
        mean: the last epoch's mean loss; None if none was measured.
        began: the epoch from which the present budget is counted.
        ended, stopped: whether training has ended, and whether the module itself ended it.
        resumed: whether training began from a checkpoint.
        batches: the number of batches in this process.
        weights_before: a checksum of each weight before the first step of this process.
    """

    def __init__(
        self, pace: CheckpointTimer, context: Context, rank: int, until: int, state: State | None, batches: int
    ) -> None:
        self.pace, self._context, self._rank, self._until, self.budget = pace, context, rank, until, context.budget
        self._first: int | None = None
        self._total = torch.zeros(())
        self._measured = self._steps_seen = 0
        meta = state.meta if state else {"epoch": 0, "loss": None}
        self.epoch: int = meta["epoch"]
        self.steps: int = meta.get("steps", meta["epoch"] * batches)
        self.mean: float | None = meta["loss"]
        self.began = budget_start(meta, context) if state else 0
        self.ended = self.stopped = False
        self.resumed = state is not None
        self.batches = 0
        self.weights_before: dict[str, int] = {}
        self._planned, self._steps_count = 0, True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._planned = trainer.max_epochs or 0
        admit_callbacks(trainer, pl_module, Path(trainer.default_root_dir))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps_seen = trainer.global_step
        self.weights_before = checksum_weights(pl_module)
        # Without optimizers, Lightning makes one up, and counts its steps.
        own = {id(weight) for weight in pl_module.parameters()}
        groups = (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
        self._steps_count = any(id(weight) in own for group in groups for weight in group["params"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not at the end of the epoch before, as Lightning only steps epoch-wise schedulers after its hooks there.
        epoch = trainer.current_epoch
        self._first = epoch if self._first is None else self._first
        self.epoch = epoch
        # Not at the end of the epoch before, as the module's own hook there may change weights after this one.
        least = 1 if pl_module.automatic_optimization else MAX_BATCHES_WITHOUT_STEP
        if epoch > self._first and not (self.resumed or self.steps) and self.batches >= least:
            _check_progress(type(pl_module).__name__, pl_module, self)
        if epoch > self._first and trainer.strategy.broadcast(self.pace.due()):
            # Lightning counts the new epoch already, and would resume one that began: without `ReduceLROnPlateau`.
            counts = trainer.fit_loop.epoch_progress.total, trainer.fit_loop.epoch_progress.current
            for count in counts:
                count.ready -= 1
            self._save(trainer)
            for count in counts:
                count.ready += 1
        if epoch >= self._planned:  # for averaged weights' statistics; Lightning would step by the gradients of before
            for optimizer in trainer.optimizers:
                optimizer.zero_grad()
        torch.manual_seed(derive(self._context.seed, "epoch", epoch, self._rank))
        self._total = torch.zeros((), device=pl_module.device)
        self._measured = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        made, self._steps_seen = trainer.global_step - self._steps_seen, trainer.global_step
        automatic = pl_module.automatic_optimization
        self.batches += 1
        skipped = automatic and (loss is None or not self._steps_count)  # Lightning counts these steps too
        if self.epoch < self._planned and not skipped:
            self.steps += made
        if isinstance(loss, Tensor | float):  # a module with manual optimization may return no loss
            parts = trainer.accumulate_grad_batches if automatic else 1  # Lightning divides the loss by it
            self._total += (loss.detach() if isinstance(loss, Tensor) else loss) * parts
            self._measured += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.mean = self._total.item() / self._measured if self._measured else None
        if self.mean is not None and not math.isfinite(self.mean):
            raise Diverged(f"the loss was {self.mean} in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}")
        self.epoch += 1
        if self.epoch == self._until < self._planned:  # else the trainer ends; a callback may have added an epoch
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended, self.stopped = True, self.epoch < self._until
        if self.budget is not None:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        # Lightning does so a moment later; else training would resume after the last batch of the epoch before.
        loop = trainer.fit_loop.epoch_loop
        for progress in (loop.batch_progress, loop.scheduler_progress, loop.automatic_optimization.optim_progress):
            progress.reset_on_run()
        trainer.save_checkpoint(CHECKPOINT)


@contextmanager
def _refusing(network: nn.Module) -> Iterator[None]:
    """Turn what Lightning itself raises in the body, about the module, into `Refused`; the module's own errors pass."""
    try:
        yield
    except (MisconfigurationException, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        if not isinstance(error, MisconfigurationException) and LIGHTNING_FOLDER not in Path(raised_in).parents:
            raise
        text = " ".join(str(error).split())
        raise Refused(f"{type(network).__name__}: Lightning does not take the module: {text}") from error
