"""A federation's client: a network that starts from the server's weights and learns from its own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from distens.data.dataset import Examples
from distens.errors import Diverged, Refused
from distens.models.mlp import Mlp
from distens.objectives.cross_entropy import CrossEntropy
from distens.records import Floats, Integers, State
from distens.registry import Plugin
from distens.seeding import derive
from distens.training import network
from distens.training.context import Context
from distens.training.loop import OptimizerName, Recipe
from distens.training.outputs import check_outputs

if TYPE_CHECKING:
    from torch import nn

    from distens.training.local import LocalTraining, LocalUpdate, Shard


@dataclass
class Client:
    """A client, which trains the server's network on its own rows, for some epochs or steps, by cross-entropy.

    In one shot (`federated.rounds: 1` with a distiller) clients may be of several families, each with its own
    architecture; in several rounds all clients are of one family.

    Attributes:
        model: the architecture.
        optimizer: `sgd`, `adam` or `adamw`; it starts afresh in every round.
        learning_rate: the learning rate of every step in the first round.
        decay: the factor by which the learning rate changes from one round to the next.
        weight_decay: an L2 penalty for `sgd` and `adam`, decoupled for `adamw`.
        momentum: for `sgd` alone; 0 if not given.
        epochs: local passes over the client's rows in one round; 1 if neither `epochs` nor `steps` is given.
        steps: the number of steps in one round, instead of `epochs`.
        batch_size: rows per step; a client with fewer rows uses all of them.
        clip: the largest norm of the loss's gradient, to which longer gradients are shortened; null: no limit.
        proximal: FedProx's mu, the factor of the distance from the round's start (see
            `distens.training.local.LocalTraining`).
        start: the seed of the first weights, which is then the same for all clients; null: the member's own seed.
        batch_norm: what becomes of batch normalisation, if the network has any: `averaged`: its weights are merged like
            all others, and its running statistics are averaged by the shares of the clients, whatever the rule does
            with weights; `local`: its weights, biases and statistics stay with each client from round to round, and
            only the others are merged (Li et al. 2021, "FedBN", algorithm 1). Where we differ: the server keeps them
            for the client, so that clients need no memory between rounds, and may be lost; and there is a global model,
            which the paper has not: its batch normalisation is the mean, by rows, of what the clients had last.
    """

    model: Annotated[Any, Plugin("models")] = field(default_factory=Mlp)
    optimizer: OptimizerName = "sgd"
    learning_rate: Annotated[float, Gt(0)] = 0.05
    decay: Annotated[float, Gt(0), Le(1)] = 1.0
    weight_decay: Annotated[float, Ge(0)] = 0.0
    momentum: Annotated[float, Ge(0), Lt(1)] | None = None
    epochs: Annotated[int, Ge(1)] | None = None
    steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(1)] = 32
    clip: Annotated[float, Gt(0)] | None = 10.0
    proximal: Annotated[float, Ge(0)] = 0.0
    start: Annotated[int, Ge(0)] | None = None
    batch_norm: Literal["averaged", "local"] = "averaged"

    varies_in_pack: ClassVar[tuple[str, ...]] = ("start",)
    shared_when_stacked: ClassVar[tuple[str, ...]] = ("model",)

    def __post_init__(self) -> None:
        if self.momentum is not None and self.optimizer != "sgd":
            raise ValueError(
                f"momentum: {self.momentum} has no effect with optimizer {self.optimizer!r}, only with 'sgd'"
            )
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"epochs: {self.epochs} has no effect together with steps: {self.steps}; give one of them")
        self._network: nn.Module | None = None
        self._input_shape: tuple[int, ...] = ()
        self._classes = 0

    @property
    def plain_steps(self) -> bool:
        """Return True if a step is the gradient times the learning rate (see `merge.protocol.AssumesPlainSteps`)."""
        return self.optimizer == "sgd" and not self.momentum and not self.weight_decay

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        """Train in one shot on the client's own rows.

        The metrics include `rows`, and `rows_0`, `rows_1`, …, the number of rows of each class.

        Raises:
            Diverged: the loss or a weight is not finite.
            Refused: the architecture does not fit the inputs, or the client has no rows, or no labels.
        """
        ((_, found),) = self.fit_pack([self], examples, [context])
        if isinstance(found, Diverged):
            raise found
        return found

    @classmethod
    def fit_pack(
        cls, members: Sequence[Client], examples: Examples, contexts: Sequence[Context]
    ) -> Iterator[tuple[int, Mapping[str, float] | Diverged]]:
        """Train clients together, in groups that start from the same weights (see `Packable`)."""
        from distens.training import flat

        groups: dict[int, list[int]] = {}
        for place, (member, context) in enumerate(zip(members, contexts, strict=True)):
            groups.setdefault(context.seed if member.start is None else member.start, []).append(place)
        for seed, places in groups.items():
            for place in places:
                members[place].begin(examples.inputs.shape[1:], examples.classes, seed)
            shards = [cls._shard(examples, contexts[place]) for place in places]
            start_P = flat.flatten_weights(members[places[0]].torch_module())
            for i, found in members[places[0]].train(start_P, shards, 0, contexts[0].device):
                place = places[i]
                if isinstance(found, Diverged):
                    yield place, found
                    continue
                flat.set_weights(members[place].torch_module(), found.weights_P)
                yield place, {**_metrics(found, shards[i].examples), "parameters": len(found.weights_P)}

    def rehearse(self, examples: Examples) -> Sequence[str]:
        """Try two rows, forward and backward, then as clients do it; return advice.

        Raises:
            Refused: see `distens.training.inspection.rehearse`; or the network's weights cannot be merged.
        """
        from distens.training import inspection
        from distens.training.local import Shard

        shape, classes = tuple(examples.inputs.shape[1:]), examples.classes
        build, restore = partial(self.model.build, shape, classes), partial(network.restore, self.model, shape, classes)
        advice = inspection.rehearse(build, restore, examples, CrossEntropy().loss)
        one = replace(self, epochs=1, steps=None)
        one.begin(shape, classes, 0)
        list(one.train(one.weights(), [Shard("", inspection.two_rows(examples), 0)], 0))
        return advice

    @staticmethod
    def _shard(examples: Examples, context: Context) -> Shard:
        from distens.training.local import Shard

        own = examples
        if context.rows_N is not None:
            own = replace(examples, inputs=examples.inputs[context.rows_N], targets=examples.targets[context.rows_N])
        return Shard("", own, context.seed)

    def train(
        self, start_P: Floats, shards: Sequence[Shard], round: int, device: str = "cpu"
    ) -> Iterator[tuple[int, LocalUpdate | Diverged]]:
        """Train clients with these settings from the same weights; yield each client's place and its result or error.

        Many clients are trained as one program. The member itself only serves as the pattern of their networks: call
        `begin` or `load` first.

        Args:
            start_P: the server's weights.
            round: counted from 0; the learning rate is multiplied by `decay` that many times.

        Raises:
            Refused: the start does not fit the network, or a client has no rows, or no labels.
        """
        from distens.training import local

        for shard in shards:
            if shard.examples.targets.ndim != 1:
                raise Refused("a client learns the labels of its rows; it was given probabilities")
            if not len(shard.examples.inputs):
                raise Refused(f"client {shard.client}: it has no rows")
        yield from local.train_clients(self.torch_module(), start_P, shards, self._local(round), device)

    def _local(self, round: int) -> LocalTraining:
        from distens.training.local import LocalTraining

        recipe = Recipe(
            optimizer=self.optimizer,
            learning_rate=self.learning_rate * self.decay**round,
            weight_decay=self.weight_decay,
            momentum=self.momentum or 0.0,
            schedule="constant",
            epochs=self.epochs or 1,
            batch_size=self.batch_size,
        )
        return LocalTraining(recipe, self.steps, self.clip, self.proximal)

    def pack_advice(self, input_shape: tuple[int, ...], classes: int, gpu: bool) -> tuple[int, str]:
        """Return the best number of such clients in a pack, and the reason (see `distens.training.packed.advise`)."""
        import torch

        from distens.training import packed

        built = network.initialise(lambda: self.model.build(input_shape, classes), seed=0)
        return packed.advise(built, torch.zeros((2, *input_shape)), self.batch_size, gpu)

    def begin(self, input_shape: tuple[int, ...], classes: int, seed: int) -> None:
        """Make the untrained network, whose first weights depend on the seed alone."""
        self._input_shape, self._classes = tuple(input_shape), classes
        self._network = network.initialise(lambda: self.model.build(self._input_shape, classes), derive(seed, "client"))
        if self.keeps_own and not len(self.own_places()):
            raise Refused("batch_norm: 'local' has no effect: the network has no batch normalisation; leave it out")

    @property
    def keeps_own(self) -> bool:
        """Return True if batch normalisation stays with each client."""
        return self.batch_norm == "local"

    def statistics(self) -> int:
        """Return the number of running statistics, at the end of `weights`."""
        from distens.training import flat

        return flat.count_statistics(self.torch_module())

    def own_places(self) -> Integers:
        """Return the places in `weights` of what stays with each client."""
        from distens.training import flat

        places = flat.own_places(self.torch_module())
        return places if self.keeps_own else places[:0]

    def weights(self) -> Floats:
        """Return all weights, concatenated, and after them all running statistics, float32."""
        from distens.training import flat

        return flat.flatten_weights(self.torch_module())

    def become(self, weights_P: Floats) -> None:
        """Set all weights, in the order of `weights`."""
        from distens.training import flat

        flat.set_weights(self.torch_module(), weights_P)

    def gradient(self, examples: Examples) -> tuple[float, Floats]:
        """Return the mean cross-entropy of the network's predictions on the examples, and its gradient by all weights.

        The gradient by running statistics is 0.
        """
        import torch

        from distens.training import loop

        module, total = self.torch_module().eval(), 0.0
        inputs, labels = loop.to_tensors(examples)
        gradient_P = torch.zeros(sum(p.numel() for p in module.parameters()))
        for some, own in zip(inputs.split(network.PREDICT_ROWS), labels.split(network.PREDICT_ROWS), strict=True):
            logits_NC = check_outputs(module, module(some), len(some), self._classes)
            loss = torch.nn.functional.cross_entropy(logits_NC, own, reduction="sum") / len(labels)
            parts = torch.autograd.grad(loss, list(module.parameters()), materialize_grads=True, allow_unused=True)
            gradient_P += torch.cat([part.flatten() for part in parts])
            total += loss.item()
        return total, np.append(gradient_P.numpy(), np.zeros(self.statistics(), dtype=np.float32))

    @classmethod
    def stack(cls, members: Sequence[Client]) -> Callable[[Floats], Floats]:
        """Return a function, inputs -> probs_MNC, of members of one architecture (see `Stackable`)."""
        networks = [member.torch_module() for member in members]
        return network.stack(networks, members[0]._input_shape, members[0]._classes)

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC, computed on the network's device."""
        return network.predict_probs(self.torch_module(), inputs, self._classes)

    def state(self) -> State:
        """Return the weights by name."""
        meta = {"input_shape": list(self._input_shape), "classes": self._classes}
        return State(network.to_arrays(self.torch_module()), meta)

    def load(self, state: State) -> None:
        """Restore the network from a state, on the CPU."""
        self._input_shape, self._classes = tuple(state.meta["input_shape"]), state.meta["classes"]
        self._network = network.restore(self.model, self._input_shape, self._classes, state.arrays)

    def torch_module(self) -> nn.Module:
        """Return the network itself, inputs (N, …) -> logits_NC; changes to it show in `predict` and `state`."""
        assert self._network is not None, "there is no network before fit, load or begin"
        return self._network

    def to(self, device: str) -> None:
        """Move the network to `cpu` or `cuda`; it then predicts on that device."""
        self.torch_module().to(device)


def histogram(examples: Examples) -> tuple[int, ...]:
    """Return the number of rows of each class."""
    return tuple(int(count) for count in np.bincount(examples.targets, minlength=examples.classes))


def read_histogram(metrics: Mapping[str, float], classes: int) -> tuple[int, ...]:
    """Return the number of a client's rows of each class, from its metrics of training in one shot."""
    return tuple(int(metrics[f"rows_{c}"]) for c in range(classes))


def _metrics(found: LocalUpdate, examples: Examples) -> dict[str, float]:
    counts = {f"rows_{c}": float(count) for c, count in enumerate(histogram(examples))}
    return {
        "steps": float(found.steps),
        "train_loss": found.loss,
        "seconds": found.seconds,
        "rows": float(len(examples.inputs)),
        **counts,
    }
