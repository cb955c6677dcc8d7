"""A member that is a network of `distens/models`, trained alone or in a pack of similar members."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt

from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.members._rows import Rows, choose_rows, of_fold, select_examples
from distens.models.mlp import Mlp
from distens.objectives.cross_entropy import CrossEntropy
from distens.objectives.protocol import SmoothsLabels
from distens.objectives.squared_error import SquaredError
from distens.records import Floats, State
from distens.registry import Plugin, has_capability
from distens.training import loop, network
from distens.training.context import Context
from distens.training.loop import OptimizerName, Schedule

if TYPE_CHECKING:
    from torch import nn

    from distens.training.packed import Learner


@dataclass
class Classifier:
    """A network that learns labels, or a teacher's probabilities.

    Attributes:
        model: the architecture.
        objective: the loss that training minimises.
        optimizer: `sgd`, `adam` or `adamw`.
        learning_rate: the learning rate of the first step.
        weight_decay: an L2 penalty for `sgd` and `adam`, decoupled for `adamw`.
        momentum: for `sgd` alone; 0.9 if not given.
        schedule: of the learning rate: `constant`, or `cosine`, which falls to zero.
        epochs: passes over the rows.
        batch_size: rows per step.
        rows: `all`, or `bootstrap`: rows drawn with replacement by the member's seed.
    """

    model: Annotated[Any, Plugin("models")] = field(default_factory=Mlp)
    objective: Annotated[Any, Plugin("objectives")] = field(default_factory=CrossEntropy)
    optimizer: OptimizerName = "adamw"
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    momentum: Annotated[float, Ge(0), Lt(1)] | None = None
    schedule: Schedule = "constant"
    epochs: Annotated[int, Ge(1)] = 30
    batch_size: Annotated[int, Ge(1)] = 64
    rows: Rows = "all"

    varies_in_pack: ClassVar[tuple[str, ...]] = (
        "learning_rate",
        "weight_decay",
        "momentum",
        "schedule",
        "epochs",
        "rows",
        "model.dropout",
        "objective.label_smoothing",
    )
    shared_when_stacked: ClassVar[tuple[str, ...]] = ("model",)
    packs_folds: ClassVar[Literal[True]] = True

    def __post_init__(self) -> None:
        if self.momentum is not None and self.optimizer != "sgd":
            raise ValueError(
                f"momentum: {self.momentum} has no effect with optimizer {self.optimizer!r}, only with 'sgd'"
            )
        if isinstance(self.objective, SquaredError) and type(self) is Classifier:
            raise ValueError("objective: squared_error is for numbers, a `regressor`'s; leave it out")
        self._network: nn.Module | None = None
        self._input_shape: tuple[int, ...] = ()
        self._classes = 0

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        """Train the network; see `distens.training.loop.fit_network` for metrics and errors."""
        import torch

        from distens.training import packed

        learner = self._learner(examples, context)
        example = torch.zeros((2, *examples.inputs.shape[1:]))
        if self._written_out() and packed.gains_alone(learner.network, example, self.batch_size):
            ((_, found),) = packed.fit_pack([learner], examples)
            if isinstance(found, Diverged):
                raise found
            return found
        learned = select_examples(of_fold(examples, context), self.rows, context.seed)
        return loop.fit_network(learner.network, learned, context, learner.recipe, self.objective.loss)

    def rehearse(self, examples: Examples) -> Sequence[str]:
        """Try two rows, forward and backward; return advice (see `distens.training.inspection.rehearse`)."""
        from distens.training import inspection

        shape, classes = tuple(examples.inputs.shape[1:]), examples.classes
        build, restore = partial(self.model.build, shape, classes), partial(network.restore, self.model, shape, classes)
        return inspection.rehearse(build, restore, examples, self.objective.loss, self.batch_size)

    def last_epoch(self) -> int | None:
        """Return the epoch at which the learning rate reaches zero; None for a constant rate: there is no limit."""
        return self.epochs if self.schedule == "cosine" else None

    def _recipe(self) -> loop.Recipe:
        return loop.Recipe(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=0.9 if self.momentum is None else self.momentum,
            schedule=self.schedule,
            epochs=self.epochs,
            batch_size=self.batch_size,
        )

    @classmethod
    def fit_pack(
        cls, members: Sequence[Classifier], examples: Examples, contexts: Sequence[Context]
    ) -> Iterator[tuple[int, Mapping[str, float] | Diverged]]:
        """Train members together (see `Packable`), or one after the other where packs gain nothing."""
        from distens.training import packed
        from distens.training.stacked import Unstackable

        shape, gpu = examples.inputs.shape[1:], contexts[0].device.startswith("cuda")
        left = dict(enumerate(zip(members, contexts, strict=True)))
        if members[0].pack_advice(shape, examples.classes, gpu)[0] > 1:
            learners = [member._learner(examples, context) for member, context in left.values()]
            with suppress(Unstackable):  # networks of one's own may differ from member to member
                for place, found in packed.fit_pack(learners, examples):
                    del left[place]
                    yield place, found
        for place, (member, context) in left.items():
            try:
                yield place, member.fit(examples, context)
            except Diverged as error:
                yield place, error

    def pack_advice(self, input_shape: tuple[int, ...], classes: int, gpu: bool) -> tuple[int, str]:
        """Return the best number of such members in a pack, and the reason (see `distens.training.packed.advise`)."""
        import torch

        from distens.training import packed

        if not self._written_out():
            return 1, "only members with the cross-entropy objective can be trained in packs"
        built = network.initialise(lambda: self.model.build(input_shape, classes), seed=0)
        return packed.advise(built, torch.zeros((2, *input_shape)), self.batch_size, gpu)

    def _written_out(self) -> bool:
        return type(self.objective) is CrossEntropy  # a subclass may minimise anything

    def _learner(self, examples: Examples, context: Context) -> Learner:
        from distens.training.packed import Learner

        self._make(examples.inputs.shape[1:], examples.classes, context.seed)
        assert self._network is not None
        rows_N = None
        if self.rows != "all" or context.fold is not None:
            own_N = np.arange(len(examples.inputs)) if context.fold is None else context.fold.learned_N
            rows_N = own_N[choose_rows(self.rows, len(own_N), context.seed)]
        smoothing = self.objective.label_smoothing if has_capability(self.objective, SmoothsLabels) else 0.0
        return Learner(self._network, self._recipe(), context, rows_N, smoothing)

    @classmethod
    def stack(cls, members: Sequence[Classifier]) -> Callable[[Floats], Floats]:
        """Return a function, inputs -> probs_MNC, of members of one architecture (see `Stackable`)."""
        networks = [member._network for member in members if member._network is not None]
        assert len(networks) == len(members), "predict needs fit or load first"
        return network.stack(networks, members[0]._input_shape, members[0]._classes)

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC, computed on the network's device: that of its training, or the CPU after `load`."""
        assert self._network is not None, "predict needs fit or load first"
        return network.predict_probs(self._network, inputs, self._classes)

    def state(self) -> State:
        """Return the weights by name."""
        assert self._network is not None, "state needs fit or load first"
        meta = {"input_shape": list(self._input_shape), "classes": self._classes}
        return State(network.to_arrays(self._network), meta)

    def load(self, state: State) -> None:
        """Restore the network from a state, on the CPU."""
        self._input_shape, self._classes = tuple(state.meta["input_shape"]), state.meta["classes"]
        self._network = network.restore(self.model, self._input_shape, self._classes, state.arrays)

    def begin(self, input_shape: tuple[int, ...], classes: int, seed: int) -> None:
        """Make the untrained network, whose first weights depend on the seed alone."""
        self._make(input_shape, classes, seed)

    def torch_module(self) -> nn.Module:
        """Return the network itself, inputs (N, …) -> logits_NC; changes to it show in `predict` and `state`."""
        assert self._network is not None, "there is no network before fit, load or begin"
        return self._network

    def to(self, device: str) -> None:
        """Move the network to `cpu` or `cuda`; it then predicts on that device."""
        assert self._network is not None, "there is nothing to move before fit or load"
        self._network.to(device)

    def _make(self, input_shape: tuple[int, ...], classes: int, seed: int) -> None:
        self._input_shape, self._classes = tuple(input_shape), classes
        self._network = network.initialise(lambda: self.model.build(self._input_shape, classes), seed)
