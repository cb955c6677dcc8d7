"""A member: something that learns from examples and predicts class probabilities; and what else a kind may do.

The main protocol is `Member`. All others are optional: a kind has one by defining what it names, and whoever wants it
asks with `registry.able`. A kind defines no other public names, so that a misspelt one is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.records import Floats, Resources, Settings, State
from distens.training.context import Context

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Self

    from distens.training.local import Learned, Shard


class Member(Protocol):
    """A dataclass whose fields are its options; what it has learned is not a field.

    An actor builds, trains and asks it, and a predictor restores it:

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

        The same examples, seed and threads give the same member, bit for bit, on one machine, also when training
        was interrupted and went on from a checkpoint.

        Raises:
            Diverged: the loss or the predictions stopped being finite.
            Refused: these settings cannot work on these examples.
        """
        ...

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC (float32): rows sum to one, columns are all C classes in order."""
        ...

    def state(self) -> State:
        """Return all that `predict` needs besides the settings. No pickle, ever."""
        ...

    def load(self, state: State) -> None:
        """Become the member that `state` describes; `predict` then gives the same probabilities, bit for bit."""
        ...


PLUGINS = (Member,)
"""What a user's own plug-in of this family must be: one of these."""


class Packable(Member, Protocol):
    """A kind that can train many of its members as one program.

    `distens.packing` puts members into one pack that differ in their `free` settings alone, as many as the first one
    advises, and the actor trains them together:

        size, reason = members[0].pack_advice(input_shape, classes, gpu)
        for place, found in type(members[0]).fit_pack(members, examples, contexts):
            ...

    Attributes:
        free: settings, dotted (`learning_rate`, `model.dropout`), in which members of one pack may differ; all others
            are equal in a pack.
    """

    free: ClassVar[tuple[str, ...]]

    @classmethod
    def fit_pack(
        cls, members: Sequence[Self], examples: Examples, contexts: Sequence[Context]
    ) -> Iterator[tuple[int, Mapping[str, float] | Diverged]]:
        """Train members together; yield each one's place and metrics (or why it stopped) as it finishes.

        A yielded member is ready for `predict` and `state`, and equals the same member trained alone to float
        tolerance. `seconds` among its metrics is its share of the pack's time. All `contexts` have one device.

        Raises:
            Refused: these settings cannot work on these examples.
        """
        ...

    def pack_advice(self, input_shape: tuple[int, ...], classes: int, gpu: bool) -> tuple[int, str]:
        """Return how many such members are best trained together, and why, in a few words; 1 if packs gain nothing."""
        ...


class Stackable(Member, Protocol):
    """A kind that can ask many of its members in one pass.

    The predictor stacks those that share what is `asked`:

        predict_all = type(members[0]).stack(members)
        probs_MNC = predict_all(inputs)

    Attributes:
        asked: settings that members stacked for prediction have in common, except those that are `Packable.free`.
    """

    asked: ClassVar[tuple[str, ...]]

    @classmethod
    def stack(cls, members: Sequence[Self]) -> Callable[[Floats], Floats]:
        """Return inputs -> probs_MNC (float32): what each member's `predict` returns, to float tolerance, in one pass.

        The members' weights are copied; `device` is where the first of them lies.
        """
        ...


class TrainsInRungs(Member, Protocol):
    """A kind whose members can stop after any epoch and resume later, from their checkpoint.

    A schedule with rungs gives such members budgets (see `distens.schedule.protocol.in_parts`) and is told their length
    when the plan is made; members of other kinds are trained in one go:

        lengths[family] = Length(epochs=(member.epochs,), last=member.last_epoch())
        member.fit(examples, Context(seed, checkpoint, budget=3))
    """

    @property
    def epochs(self) -> int:
        """Return the number of epochs that the settings ask for: an option."""
        ...

    def last_epoch(self) -> int | None:
        """Return the epoch at which the rate ends, beyond which training cannot go on; None: there is none."""
        ...


class LeavesParts(Member, Protocol):
    """A kind whose training leaves several models, each a state of this kind.

    Its `fit` leaves one after the other; those that an earlier attempt left are there already:

        for name in ("early", "late"):
            if name not in context.parts:
                ...
                context.parts.leave(name, self.state(), {"epochs": 3})

    Attributes:
        parts: `averaged`: they make one prediction together, the mean of theirs; `selectable`: each is a model by
            itself, `<task>/<part>`, which may be selected without the others.
    """

    parts: ClassVar[Literal["averaged", "selectable"]]


class HasDefaultRanges(Member, Protocol):
    """A kind that fills in the search ranges which its users would otherwise write out.

    The plan asks it, before anything is checked, and the resolved config shows them:

        template = cls.default_ranges({"kind": "estimator", "estimator": "svm"})
    """

    @classmethod
    def default_ranges(cls, template: Mapping[str, Any]) -> dict[str, Any]:
        """Return the template with ranges where it leaves them out.

        Raises:
            ValueError: the template cannot be right; the message says why.
        """
        ...


class UsesNoGpu(Member, Protocol):
    """A kind to which a GPU is of no use, and torch neither.

    The plan refuses GPUs per member if all families are of such kinds:

        if runner.usual.gpus and all(registry.able(cls, UsesNoGpu) for cls in classes):
            raise ConfigError(...)

    Where other families use them, its members occupy none.

    Attributes:
        uses_gpu: False.
    """

    uses_gpu: ClassVar[Literal[False]]


class LearnsNumbers(Member, Protocol):
    """A kind whose targets are numbers, and whose predictions are predictions_NK in their units; others learn classes.

    The plan refuses families that cannot learn the run's target:

        learns = registry.able(cls, LearnsNumbers)

    Attributes:
        learns_numbers: True.
    """

    learns_numbers: ClassVar[Literal[True]]


class Grouped(Member, Protocol):
    """A kind whose members may be trained by several processes together.

    The runner reserves room for all of them at once (see `distens.training.group`):

        resources = cls.occupied(settings, resources)
        actor = places.actor(resources)                      # sits in a reservation of resources.processes parts
    """

    @classmethod
    def occupied(cls, settings: Settings, given: Resources) -> Resources:
        """Return what a member of these settings occupies, of what the config gives it.

        Raises:
            ValueError: that cannot be divided among its processes; the message begins with what of it.
        """
        ...


class HasNetwork(Member, Protocol):
    """A kind whose members are torch networks.

    A server can begin one, merge into it, and teach it:

        member.begin(input_shape, classes, seed)
        logits_NC = member.torch_module()(inputs)
    """

    def begin(self, input_shape: tuple[int, ...], classes: int, seed: int) -> None:
        """Become an untrained network, by the seed alone."""
        ...

    def torch_module(self) -> nn.Module:
        """Return the network itself: inputs (N, …) -> logits_NC; `predict` and `state` see what is done to it."""
        ...


class Movable(Member, Protocol):
    """A kind whose members predict where they lie.

    A loaded one lies on the CPU; whoever wants it elsewhere moves it:

        member.load(state)
        member.to("cuda")
        probs_NC = member.predict(inputs)
    """

    def to(self, device: str) -> None:
        """Move the member to `cpu` or `cuda`; predictions then come from there."""
        ...


class ClientKind(HasNetwork, Protocol):
    """A kind that can be a federation's client.

    A federated plan refuses all others. In every round the actor fills one member with the server's weights and lets it
    train all clients of a pack; what was merged is judged on the server's rows, or its gradient is taken there:

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
    ) -> Iterator[tuple[int, Learned | Diverged]]:
        """Train clients with these settings from one start; yield each one's place and what it learned, or why it
        stopped. The member itself is only the pattern: it must have begun or been loaded.

        Args:
            start_P: the server's weights.
            round: from 0.

        Raises:
            Refused: the start is no such network's, or a client has no rows, or no labels.
        """
        ...

    def weights(self) -> Floats:
        """Return all weights, one after the other, float32."""
        ...

    def become(self, weights_P: Floats) -> None:
        """Take all weights, as `weights` gives them."""
        ...

    def gradient(self, examples: Examples) -> tuple[float, Floats]:
        """Return the mean cross-entropy of the network on some rows, and its gradient by all weights."""
        ...
