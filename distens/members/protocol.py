"""The protocols of members: a member learns from examples and predicts class probabilities (or numbers).

The main protocol is `Member`. All others are optional: a kind fulfils one by defining the names in it, and callers test
for it with `registry.has_capability`. A kind defines no other public names, so that a misspelt one is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.records import Floats, Integers, Resources, Settings, State
from distens.training.context import Context

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Self

    from distens.training.local import LocalUpdate, Shard


class Member(Protocol):
    """A dataclass whose fields are its options; what the member has learned is not a field.

    An actor builds it, trains it and predicts with it; a predictor restores it:

        >>> import numpy as np
        >>> from distens import registry
        >>> from distens.data.dataset import Examples
        >>> from distens.training.context import Context
        >>> settings = {"kind": "estimator", "estimator": "extra_trees", "options": {"n_estimators": 2}}
        >>> examples = Examples(np.array([[0.0], [1.0]], dtype=np.float32), np.array([0, 1]), classes=2)
        >>> member = registry.build_member(settings)
        >>> metrics = member.fit(examples, Context(seed=1))
        >>> restored = registry.build_member(settings)
        >>> restored.load(member.state())
        >>> restored.predict(examples.inputs).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        """Train from scratch, or from `context.checkpoint`, and return metrics; `parameters` must be among them.

        On one machine, the same examples, seed and threads give the same member, bit for bit, even if training was
        interrupted and resumed from a checkpoint.

        Raises:
            Diverged: the loss or the predictions stopped being finite.
            Refused: these settings cannot work on these examples.
        """
        ...

    def predict(self, inputs: Floats) -> Floats:
        """Return predictions_NK (float32): rows sum to one, columns are all C classes in order."""
        ...

    def state(self) -> State:
        """Return the state: all that `predict` needs besides the settings. It never contains a pickle."""
        ...

    def load(self, state: State) -> None:
        """Restore the member from its state; `predict` then gives the same probabilities, bit for bit."""
        ...


PLUGINS = (Member,)
"""What a user's own plug-in of this family must be: one of these."""


class Packable(Member, Protocol):
    """A kind that can train many of its members as one program.

    `distens.packing` puts members that differ only in their `varies_in_pack` settings into one pack, of the size that
    one of them advises, and an actor trains the pack::

        size, reason = members[0].pack_advice(input_shape, classes, gpu)
        for place, found in type(members[0]).fit_pack(members, examples, contexts):
            ...

    Attributes:
        varies_in_pack: the settings, dotted (`learning_rate`, `model.dropout`), in which members of one pack may
            differ; all other settings are equal in a pack.
    """

    varies_in_pack: ClassVar[tuple[str, ...]]

    @classmethod
    def fit_pack(
        cls, members: Sequence[Self], examples: Examples, contexts: Sequence[Context]
    ) -> Iterator[tuple[int, Mapping[str, float] | Diverged]]:
        """Train members together; yield each member's place and its metrics, or its error, as soon as it finishes.

        A yielded member is ready for `predict` and `state`, and equals the same member trained alone, to float
        tolerance. The metric `seconds` is the member's share of the pack's time. All `contexts` have the same device.

        Raises:
            Refused: these settings cannot work on these examples.
        """
        ...

    def pack_advice(self, input_shape: tuple[int, ...], classes: int, gpu: bool) -> tuple[int, str]:
        """Return the best number of such members in a pack (1 if packs gain nothing), and the reason in a few words."""
        ...


class PacksFolds(Packable, Protocol):
    """A kind that can train the folds of members as one program, which share one array of inputs.

    `fit` and `fit_pack` of such a kind learn from the rows of `context.fold` alone, on their own scale; all folds have
    equally many rows::

        own = replace(context, fold=fold)
        for place, found in type(members[0]).fit_pack(members, examples, [own, ...]):
            ...

    Attributes:
        packs_folds: True; it marks the kind.
    """

    packs_folds: ClassVar[Literal[True]]


class Stackable(Member, Protocol):
    """A kind whose members can predict many at a time, in one pass.

    The predictor stacks members that have the same values of the `shared_when_stacked` settings::

        predict_all = type(members[0]).stack(members)
        predictions_MNK = predict_all(inputs)

    Attributes:
        shared_when_stacked: the settings that must be equal in members stacked for prediction; those in
            `Packable.varies_in_pack` may differ.
    """

    shared_when_stacked: ClassVar[tuple[str, ...]]

    @classmethod
    def stack(cls, members: Sequence[Self]) -> Callable[[Floats], Floats]:
        """Return a function, inputs -> predictions_MNK (float32), that evaluates all members in one pass.

        Its result equals that of each member's `predict`, to float tolerance. The members' weights are copied to the
        device of the first member.
        """
        ...


class TrainsInRungs(Member, Protocol):
    """A kind whose members can stop after any epoch and resume later, from their checkpoint.

    A schedule with rungs gives such members budgets (see `distens.schedule.protocol.trains_in_rungs`); the plan tells
    it how long each family trains. Members of other kinds are trained in one go::

        lengths[family] = Length(epochs=(member.epochs,), last=member.last_epoch())
        member.fit(examples, Context(seed, checkpoint, budget=3))
    """

    @property
    def epochs(self) -> int:
        """Return the number of epochs in the settings: an option."""
        ...

    def last_epoch(self) -> int | None:
        """Return the last epoch to which training can be extended (where its learning rate ends); None: no limit."""
        ...


class Rehearses(Member, Protocol):
    """A kind whose members may run a user's own code: a network, a loss.

    A session tries such members with a few rows before anything starts::

        notes = member.rehearse(examples)
    """

    def rehearse(self, examples: Examples) -> Sequence[str]:
        """Try two rows, forward and backward, on the CPU; return advice about what is probably a mistake.

        Args:
            examples: all rows of the training, of which a few are used.

        Raises:
            Refused: the user's code failed, or its results cannot be used; the message names the line.
        """
        ...


class LeavesParts(Member, Protocol):
    """A kind whose training leaves several models (parts), each as a state of this kind.

    Its `fit` leaves one part after the other; parts that an earlier attempt left are in `context.parts` already::

        for name in ("early", "late"):
            if name not in context.parts:
                ...
                context.parts.leave(name, self.state(), {"epochs": 3})

    Attributes:
        parts: `averaged`: the member predicts the mean of its parts' predictions; `selectable`: each part is a model of
            its own, `<task>/<part>`, which may be selected without the others.
    """

    parts: ClassVar[Literal["averaged", "selectable"]]


class HasDefaultRanges(Member, Protocol):
    """A kind that fills in search ranges which its users would otherwise have to write.

    The plan calls it before anything is checked, and the resolved config shows the ranges::

        template = cls.default_ranges({"kind": "estimator", "estimator": "svm"})
    """

    @classmethod
    def default_ranges(cls, template: Mapping[str, Any]) -> dict[str, Any]:
        """Return the template with default ranges where it has none.

        Raises:
            ValueError: the template cannot be right; the message gives the reason.
        """
        ...


class UsesNoGpu(Member, Protocol):
    """A kind whose members use neither a GPU nor torch.

    The plan refuses a config that gives members GPUs if all families are of such kinds::

        if runner.usual.gpus and all(registry.has_capability(cls, UsesNoGpu) for cls in classes):
            raise ConfigError(...)

    Where other families use GPUs, members of such a kind occupy none.

    Attributes:
        uses_gpu: False.
    """

    uses_gpu: ClassVar[Literal[False]]


class LearnsNumbers(Member, Protocol):
    """A kind whose targets are numbers; other kinds learn classes. It predicts predictions_NK, in the targets' units.

    The plan refuses families that cannot learn the run's target::

        learns = registry.has_capability(cls, LearnsNumbers)

    Attributes:
        learns_numbers: True.
    """

    learns_numbers: ClassVar[Literal[True]]


class Grouped(Member, Protocol):
    """A kind whose members may be trained by several processes together.

    The runner reserves room for all processes of a member at once (see `distens.training.group`)::

        resources = cls.occupied(settings, resources)
        actor = places.actor(resources)                      # sits in a reservation of resources.processes parts
    """

    @classmethod
    def occupied(cls, settings: Settings, given: Resources) -> Resources:
        """Return the resources that a member with these settings occupies.

        Args:
            given: the resources that the config gives a member.

        Raises:
            ValueError: they cannot be divided among the processes; the message begins with the resource's name.
        """
        ...


class HasNetwork(Member, Protocol):
    """A kind whose members are torch networks.

    A server can begin such a member without training, merge weights into it, and teach it::

        member.begin(input_shape, classes, seed)
        outputs_NK = member.torch_module()(inputs)
    """

    def begin(self, input_shape: tuple[int, ...], classes: int, seed: int) -> None:
        """Make the untrained network, whose first weights depend on the seed alone."""
        ...

    def torch_module(self) -> nn.Module:
        """Return the network itself, inputs (N, …) -> outputs_NK; changes to it show in `predict` and `state`."""
        ...


class Movable(Member, Protocol):
    """A kind whose members can be moved to another device, and predict there.

    A loaded member lies on the CPU until a caller moves it::

        member.load(state)
        member.to("cuda")
        predictions_NK = member.predict(inputs)
    """

    def to(self, device: str) -> None:
        """Move the member to `cpu` or `cuda`; it then predicts on that device."""
        ...


class ClientKind(HasNetwork, Protocol):
    """A kind that can be a federation's client.

    A federated plan refuses all other kinds. In every round one member on the actor trains all clients of a pack from
    the server's weights. The merged weights are evaluated on the server's rows, or their gradient is taken there::

        for place, found in member.train(start_P, shards, round, device):
            ...  # found.weights_P is the update of shards[place].client
        member.become(merged_P)
        loss, gradient_P = member.gradient(examples)
    """

    @property
    def plain_steps(self) -> bool:
        """Return True if a step is the gradient times the learning rate (see `merge.protocol.AssumesPlainSteps`)."""
        ...

    def train(
        self, start_P: Floats, shards: Sequence[Shard], round: int, device: str = "cpu"
    ) -> Iterator[tuple[int, LocalUpdate | Diverged]]:
        """Train clients with these settings from the same weights; yield each client's place and its result or error.

        The member itself only serves as the pattern of the clients' networks: call `begin` or `load` first.

        Args:
            start_P: the server's weights.
            round: counted from 0.

        Raises:
            Refused: the start does not fit the network, or a client has no rows, or no labels.
        """
        ...

    def weights(self) -> Floats:
        """Return all weights, concatenated, float32."""
        ...

    def become(self, weights_P: Floats) -> None:
        """Set all weights, in the order of `weights`."""
        ...

    def gradient(self, examples: Examples) -> tuple[float, Floats]:
        """Return the mean cross-entropy of the network on the examples, and its gradient by all weights."""
        ...


class NormalisesBatches(ClientKind, Protocol):
    """A client kind whose networks may have batch normalisation.

    The server averages running statistics, whatever its rule does with weights, and keeps for each client what stays
    with it::

        count, places = member.statistics(), member.own_places()
        statistics, own = weights_P[len(weights_P) - count :], weights_P[places]
    """

    @property
    def keeps_own(self) -> bool:
        """Return True if batch normalisation stays with each client."""
        ...

    def statistics(self) -> int:
        """Return the number of running statistics, at the end of `weights`."""
        ...

    def own_places(self) -> Integers:
        """Return the places in `weights` of what stays with each client; none unless `keeps_own`."""
        ...
