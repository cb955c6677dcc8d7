from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from distens import registry
from distens.combine.classwise import Classwise
from distens.counts import class_shares, disco
from distens.data.dataset import Examples
from distens.distill._ensemble import TeacherEnsemble
from distens.distill._epochs import begin_student
from distens.distill._ftg import generator_loss, labels_in_proportion, similarity_loss
from distens.distill._generator import InputBounds, make_generator
from distens.distill._losses import disagreement_loss, divergence, diversify, hard_loss
from distens.distill._pool import SyntheticRows
from distens.distill._teachers import FrozenTeachers
from distens.distill._weighing import GuardedWeights, LabelledRows, SignedWeights, effective_members, step_weights
from distens.distill.coboost import Coboost
from distens.distill.fedftg import Fedftg
from distens.distill.protocol import DataFree, Knowledge
from distens.errors import ConfigError, Diverged, Refused
from distens.members.classifier import Classifier
from distens.models.lenet import Lenet
from distens.models.mlp import Mlp
from distens.models.resnet import Resnet
from distens.probabilities import softmax
from distens.records import State
from distens.storage.checkpoint import Checkpoint
from distens.storage.store import Store
from distens.training.context import Context

KINDS = [
    kind
    for kind in registry.names("distill")
    if registry.has_capability(registry.find_plugin("distill", kind, "distill"), DataFree)
]
CLASSES = ({0, 1, 2, 3, 4}, {3, 4, 5, 6, 7}, {0, 6, 7, 8, 9})
"""What each teacher knows."""

MADE = {"batch_size": 64, "width": 8, "generator_rate": 5e-3, "learning_rate": 0.1}
ENOUGH = {
    "coboost": {**MADE, "epochs": 20, "generator_steps": 8},
    "dense": {**MADE, "epochs": 20, "generator_steps": 8},
    "fedftg": {"rounds": 4, "width": 8},
    "feddf": {"epochs": 20, "learning_rate": 0.01},
    "noise": {"epochs": 5, "steps": 50, "learning_rate": 0.1},
}
SHORT = {
    "coboost": {"batch_size": 20, "width": 2, "epochs": 4, "generator_steps": 2},
    "dense": {"batch_size": 20, "width": 2, "epochs": 4, "generator_steps": 2},
    "fedftg": {"rounds": 4, "iterations": 2, "student_steps": 1, "batch_size": 10, "width": 2},
    "feddf": {"epochs": 4},
    "noise": {"epochs": 4, "steps": 2, "batch_size": 10},
}
"""Kind -> options; a kind that is not here sits the exam with its own defaults."""


@cache
def digits(flat: bool = False):
    inputs, labels_N = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(inputs))
    inputs = (inputs[order] / 16).astype(np.float32).reshape(-1, *((64,) if flat else (1, 8, 8)))
    return inputs, labels_N[order].astype(np.int64)


@cache
def teachers(*models, flat: bool = False):
    inputs, labels_N = digits(flat)
    trained = []
    for classes, model in zip(CLASSES, models, strict=True):
        rows = np.flatnonzero(np.isin(labels_N[:1200], list(classes)))
        member = Classifier(model=model, optimizer="sgd", learning_rate=0.05, weight_decay=0.0, epochs=8, batch_size=32)
        member.fit(Examples(inputs[rows], labels_N[rows], 10), Context(seed=1))
        trained.append(member)
    return trained


def server(flat: bool = False, labelled: int = 100) -> Knowledge:
    inputs, labels_N = digits(flat)
    counts = [[int((labels_N[:1200] == c).sum()) if c in classes else 0 for c in range(10)] for classes in CLASSES]
    rows = slice(1200, 1200 + labelled)
    low, high = np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.float32)
    low.setflags(write=False)
    own = Examples(inputs[rows], labels_N[rows], 10) if labelled else None
    return Knowledge(inputs.shape[1:], 10, low, high, own, np.array(counts))


def student(model=None, flat: bool = False) -> Classifier:
    member = Classifier(model=model or Mlp(hidden=(32,)))
    member.begin((64,) if flat else (1, 8, 8), 10, seed=5)
    return member


def accuracy(member) -> float:
    inputs, labels_N = digits(flat=member._input_shape == (64,))
    return float((member.predict(inputs[1300:]).argmax(axis=1) == labels_N[1300:]).mean())


def distiller(kind: str, options):
    return registry.make_plugin("distill", {"kind": kind, **options.get(kind, {})}, "distill")


LOGITS = TeacherEnsemble("logits", None)
MLPS = (Mlp(hidden=(32,)),) * 3
UNIFORM = np.full(3, 1 / 3)


# The exam that every kind sits.


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_learns_all_classes_from_teachers_that_know_five_each(kind):
    """Chance is 0.1, and a teacher gets half right at best. With real rows the student does what the ensemble does."""
    taught, known = student(), teachers(*MLPS)
    before = [member.state().arrays for member in known]
    chance = torch.get_rng_state()
    done = distiller(kind, ENOUGH).distill(known, UNIFORM, taught, server(), Context(seed=0))
    assert accuracy(taught) > 0.25
    if kind in ("coboost", "fedftg"):
        assert accuracy(taught) > np.mean([accuracy(member) for member in known])
    if kind == "feddf":
        inputs, labels_N = digits()
        logits_MNC = FrozenTeachers([member.torch_module() for member in known]).logits(torch.tensor(inputs[1300:]))
        ensemble = float((logits_MNC.sum(dim=0).argmax(dim=1).numpy() == labels_N[1300:]).mean())
        assert accuracy(taught) > ensemble - 0.05
    assert done.metrics["parameters"] == 64 * 32 + 32 + 32 * 10 + 10
    assert done.metrics["seconds"] > 0
    assert torch.equal(chance, torch.get_rng_state())
    for member, arrays in zip(known, before, strict=True):  # teachers stay as they are
        for name, array in member.state().arrays.items():
            np.testing.assert_array_equal(array, arrays[name])
    if done.weights_M is not None:
        assert (done.weights_M >= 0).all() and abs(done.weights_M.sum() - 1) < 1e-9
    if done.images is not None:
        assert done.images.shape[1:] == (1, 8, 8) and done.images.dtype == np.float32
        assert done.images.min() >= 0 and done.images.max() <= 1 and done.images.std() > 0
    assert done.curves["student_loss"][-1] < done.curves["student_loss"][0] or kind == "dense"
    assert len({len(curve) for curve in done.curves.values()}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bits(kind):
    weights = []
    for seed in (3, 3, 4):
        taught = student(Mlp(hidden=(16,), dropout=0.2))
        distiller(kind, SHORT).distill(teachers(*MLPS), UNIFORM, taught, server(), Context(seed))
        weights.append(np.concatenate([array.ravel() for array in taught.state().arrays.values()]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


class Dies(Checkpoint):
    """A task that is killed as soon as it has saved its second epoch."""

    saved = 0

    def save(self, state):
        super().save(state)
        self.saved += 1
        if self.saved == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("labelled", [100, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_one_goes_on_and_ends_with_the_same_bits(kind, labelled, tmp_path):
    way = distiller(kind, SHORT)
    if way.needs_proxy and not labelled:
        with pytest.raises(Refused, match="needs rows of the server's own"):
            way.distill(teachers(*MLPS), UNIFORM, student(), server(labelled=0), Context(0))
        return
    known, model = teachers(*MLPS), Mlp(hidden=(16,), dropout=0.2)
    whole, killed, resumed = student(model), student(model), student(model)
    store, asked = Store(str(tmp_path)), server(labelled=labelled)
    wanted = way.distill(known, UNIFORM, whole, asked, Context(7))
    dies = Dies(store, "s", every_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        way.distill(known, UNIFORM, killed, asked, Context(7, dies))
    found = way.distill(known, UNIFORM, resumed, asked, Context(7, Checkpoint(store, "s")))
    state = Checkpoint(store, "s").load()
    assert state is not None and state.meta["epoch"] == 2
    for name, array in whole.state().arrays.items():
        np.testing.assert_array_equal(array, resumed.state().arrays[name])
    assert any((array != killed.state().arrays[name]).any() for name, array in whole.state().arrays.items())
    assert found.curves == wanted.curves
    assert {**found.metrics, "seconds": 0} == {**wanted.metrics, "seconds": 0}
    np.testing.assert_array_equal(found.weights_M, wanted.weights_M)
    np.testing.assert_array_equal(found.images, wanted.images)


@pytest.mark.parametrize("kind", KINDS)
def test_architectures_may_differ(kind):
    known = teachers(Lenet(width=0.5), Mlp(hidden=(16,)), Lenet(width=0.5, dropout=0.1))
    taught = student(Lenet())
    done = distiller(kind, SHORT).distill(known, UNIFORM, taught, server(), Context(0))
    assert np.isfinite(taught.predict(digits()[0][:3])).all()
    assert done.metrics.get("from_mean", 0.0) == 0.0
    if "start" in registry.options(type(distiller(kind, {}))):
        way = distiller(kind, {kind: {**SHORT[kind], "start": "mean"}})
        with pytest.raises(Refused, match="of one architecture"):
            way.distill(known, UNIFORM, student(Lenet()), server(), Context(0))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_may_be_flat(kind):
    known, taught = teachers(*MLPS, flat=True), student(flat=True)
    done = distiller(kind, SHORT).distill(known, UNIFORM, taught, server(flat=True), Context(0))
    assert np.isfinite(taught.predict(digits(flat=True)[0][:3])).all()
    assert done.images is None or done.images.shape[1:] == (64,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_that_says_nothing_finite_is_named_as_divergence(kind):
    broken = student()
    with torch.no_grad():
        next(broken.torch_module().parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match=f"{kind}: .*loss became nan in epoch 1 of 4"):
        distiller(kind, SHORT).distill([broken] * 3, UNIFORM, student(), server(labelled=20), Context(0))


# Teachers asked together.


@pytest.mark.parametrize(
    "models",
    [
        (Lenet(),) * 3,
        (Lenet(width=0.5), Mlp(), Lenet(width=0.5)),
        (Mlp(hidden=()),) * 2,
        (Resnet(), Mlp(activation="tanh"), Resnet()),
    ],
)
def test_together_teachers_say_what_each_says_and_so_do_gradients(models):
    inputs = torch.rand((5, 3, 8, 9), requires_grad=True)
    networks = []
    for seed, model in enumerate(models):
        member = Classifier(model=model)
        member.begin((3, 8, 9), 4, seed)
        networks.append(member.torch_module().eval())
    logits_MNC = FrozenTeachers(networks).logits(inputs)
    wanted_MNC = torch.stack([network(inputs) for network in networks])
    torch.testing.assert_close(logits_MNC, wanted_MNC, atol=1e-5, rtol=1e-4)
    pull_MNC = torch.randn(logits_MNC.shape)
    (found,), (wanted,) = (torch.autograd.grad((pull_MNC * x).sum(), [inputs]) for x in (logits_MNC, wanted_MNC))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)
    assert all(p.requires_grad and p.grad is None for network in networks for p in network.parameters())


# By hand.


def test_what_teachers_say_together_by_hand():
    """Logits: (2 (1, 0) + 1 (0, 3)) / 3 = (2/3, 1); weights need not sum to one, and all zero they stay zero.
    Probabilities (3/4, 1/4) and (1/4, 3/4) with weights 2 and 1: (7/12, 5/12). By class, with rows (3, 0) and (1, 4):
    class 0 has 2 * 3/4 and 1 * 1/4 for weights, so (9/8 + 1/16) / (7/4) = 19/28; class 1 is the second's alone, 3/4.
    With a third class that nobody had, both are asked about it."""
    logits_MNC = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
    plain = TeacherEnsemble("logits", None)
    torch.testing.assert_close(plain(logits_MNC, torch.tensor([2.0, 1.0])), torch.tensor([[2 / 3, 1.0]]))
    torch.testing.assert_close(plain(logits_MNC, torch.tensor([0.2, 0.1])), torch.tensor([[2 / 3, 1.0]]))
    assert plain(logits_MNC, torch.zeros(2)).tolist() == [[0, 0]]
    logits_MNC = torch.tensor([[[3.0, 1.0]], [[1.0, 3.0]]]).log() + 7
    for weights_M in (torch.tensor([2.0, 1.0]), torch.tensor([0.4, 0.2])):
        mixed = TeacherEnsemble("probabilities", None)(logits_MNC, weights_M).exp()
        torch.testing.assert_close(mixed, torch.tensor([[7 / 12, 5 / 12]]))
        mixed = TeacherEnsemble("classwise", np.array([[3, 0], [1, 4]]))(logits_MNC, weights_M).exp()
        torch.testing.assert_close(mixed, torch.tensor([[19 / 28, 3 / 4]]))
    unseen = torch.tensor([[[2.0, 1.0, 1.0]], [[1.0, 1.0, 2.0]]]).log()
    mixed = TeacherEnsemble("classwise", np.array([[3, 0, 0], [1, 4, 0]]))(unseen, torch.ones(2)).exp()
    torch.testing.assert_close(mixed, torch.tensor([[7 / 16, 1 / 4, 3 / 8]]))
    with pytest.raises(Refused, match="average: 'classwise' needs the number of rows"):
        TeacherEnsemble("classwise", None)


@pytest.mark.parametrize("average", ["logits", "probabilities", "classwise"])
def test_weights_of_zero_have_gradients_and_logits_however_far_are_finite(average):
    """What a step by the gradient's sign brings about: some weights are exactly 0, or all."""
    logits_MNC = torch.tensor([[[90.0, -90.0]], [[-90.0, 90.0]]])
    for weights_M in (torch.tensor([0.0, 1.0]), torch.zeros(2)):
        weights_M.requires_grad_()
        said_NC = TeacherEnsemble(average, np.array([[3, 1], [1, 3]]))(logits_MNC, weights_M)
        (gradient_M,) = torch.autograd.grad(functional.cross_entropy(said_NC, torch.tensor([0])), [weights_M])
        assert torch.isfinite(said_NC).all() and torch.isfinite(gradient_M).all()


def test_ensembles_by_class_do_what_their_combiner_does():
    """What a student is taught is what is delivered: the same numbers, up to float32."""
    rng = np.random.default_rng(0)
    logits_MNC, counts_MC = rng.normal(size=(3, 7, 4)), np.array([[5, 0, 0, 1], [0, 3, 0, 1], [2, 2, 0, 1]])
    weights_M, probs_MNC = np.array([0.5, 0.3, 0.2]), softmax(logits_MNC)
    weights_MC = class_shares(weights_M[:, None] * class_shares(counts_MC))
    combined_NC = Classwise().combine(probs_MNC, State({"weights": weights_MC}))
    said_NC = TeacherEnsemble("classwise", counts_MC)(torch.tensor(logits_MNC).float(), torch.tensor(weights_M).float())
    np.testing.assert_allclose(said_NC.softmax(dim=1), combined_NC, rtol=1e-5)


def test_hard_samples_by_hand():
    """Logits (log 3, 0) and (0, 0), labels 0: p = 3/4 and 1/2, losses 0.287682 and 0.693147, weighted by 1/4 and 1/2:
    (0.0719205 + 0.3465736) / 2 = 0.209247. The weight has no gradient: that of the first logit of the first row is
    1/2 * 1/4 * (3/4 - 1) = -1/32."""
    logits_NC = torch.tensor([[np.log(3.0), 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = hard_loss(logits_NC, torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(0.209247, abs=1e-6)
    assert logits_NC.grad is not None
    assert logits_NC.grad[0, 0].item() == pytest.approx(-1 / 32)


def test_divergence_by_hand():
    """Teacher (2 log 3, 0), student (0, 0), T = 2: probabilities (3/4, 1/4) and (1/2, 1/2);
    4 (3/4 log 1.5 + 1/4 log 0.5) = 4 * 0.130812 = 0.523248. The two agree in their first class: masked, nothing
    counts; a second row, on which they differ, is half of the mean."""
    teacher_NC = torch.tensor([[2 * np.log(3.0), 0.0], [2 * np.log(3.0), 0.0]])
    student_NC = torch.tensor([[0.0, 0.0], [0.0, 1e-9]])
    np.testing.assert_allclose(divergence(student_NC, teacher_NC, 2.0), [0.523248] * 2, atol=1e-6)
    assert disagreement_loss(student_NC, teacher_NC, 2.0, masked=False).item() == pytest.approx(-0.523248, abs=1e-6)
    assert disagreement_loss(student_NC, teacher_NC, 2.0, masked=True).item() == pytest.approx(-0.261624, abs=1e-6)


def test_diverse_hard_samples_by_hand():
    """A(x) = (x0, -x1) and u = (1, -1): u . softmax grows with x0 and with x1, so both go up by their size; with
    u = (-1, 1) both go down."""
    inputs = torch.tensor([[0.5, 0.5]])

    def says(x):
        return torch.stack([x[:, 0], -x[:, 1]], dim=1)

    for sign in (1.0, -1.0):
        moved = diversify(inputs, says, torch.tensor([[sign, -sign]]), torch.tensor([0.1, 0.2]), 4.0)
        torch.testing.assert_close(moved, inputs + sign * torch.tensor([[0.1, 0.2]]))


def test_weights_take_signed_steps_and_stay_between_zero_and_one():
    """Of one row with label 0, member 0 says (2, 0), member 1 (0, 0), member 2 (0, 2). The gradient by w_k is
    (f_k - A) (p - y) / sum w: more of member 0 lowers the loss, of member 2 raises it, and A = (2/3, 2/3), so that
    member 1, of logits that differ from A by the same in both classes, has none: its sign is 0."""
    logits_MNC = torch.tensor([[[2.0, 0.0]], [[0.0, 0.0]], [[0.0, 2.0]]])
    labels_N = torch.tensor([0])
    torch.testing.assert_close(
        step_weights(LOGITS, torch.tensor([0.25, 0.25, 0.25]), logits_MNC, labels_N, 0.1),
        torch.tensor([0.35, 0.25, 0.15]),
    )
    found = step_weights(LOGITS, torch.tensor([0.98, 0.5, 0.03]), logits_MNC[[0, 0, 2]], labels_N, 0.05)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.55, 0.0]))


def test_feddisco_by_hand():
    """Sizes 20, 10, 10 of two classes; the first is even, the others are of one class: divergences 0, log 2, log 2, in
    parts 0, 1/2, 1/2. Shares 1/2 + 0.1 = 0.6, and 1/4 - 1/4 + 0.1 = 0.1 each: 0.75, 0.125, 0.125. With b = -1 nothing
    is left, and it is the sizes."""
    counts_MC = np.array([[10, 10], [10, 0], [0, 10]])
    np.testing.assert_allclose(disco(counts_MC), [0.75, 0.125, 0.125])
    np.testing.assert_allclose(disco(counts_MC, b=-1.0), [0.5, 0.25, 0.25])
    np.testing.assert_allclose(disco(np.array([[5, 5], [5, 5]])), [0.5, 0.5])


def test_fedftg_class_weights_and_labels_by_hand():
    """Class 0: 3 and 1 rows of 4; class 1: 0 and 4 of 4; class 2 nobody's, all alike. Labels in proportion 4 : 4 : 0.
    Of 5 labels with counts (1, 2): 1.67 and 3.33, rounded down 1 and 3, and what is left goes to the first."""
    counts_MC = np.array([[3, 0, 0], [1, 4, 0]])
    np.testing.assert_allclose(class_shares(counts_MC), [[0.75, 0, 0.5], [0.25, 1, 0.5]])
    assert labels_in_proportion(counts_MC.sum(axis=0), 6).tolist() == [0, 0, 0, 1, 1, 1]
    assert labels_in_proportion(np.array([1, 2]), 5).tolist() == [0, 0, 1, 1, 1]


def test_fedftg_losses_are_weighted_row_by_row():
    """Rows (0, 0) and (log 3, 0) by the teacher, the student says (1, 0) and (log 3, 2); labels 0: cross-entropies
    log 2 and log 4/3, gaps 1/2 and 1. With weights 1 and 0 the mean is (log 2 - 1/2) / 2; means of weights and losses
    multiplied would give something else. Two rows of noise 2 apart in its one number and 3 apart in theirs: pairs give
    0, 12, 12, 0, so exp(-6)."""
    teacher_NC = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]])
    student_NC = torch.tensor([[1.0, 0.0], [np.log(3.0), 2.0]])
    loss = generator_loss(student_NC, teacher_NC, torch.tensor([0, 0]), torch.tensor([1.0, 0.0]), classify=1.0)
    assert loss.item() == pytest.approx((np.log(2) - 0.5) / 2, abs=1e-6)
    assert similarity_loss(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [3.0]])).item() == pytest.approx(
        np.exp(-6)
    )


def test_effective_members_by_hand():
    """Uniform over four: 4. (1/2, 1/2, 0): 2. One alone: 1."""
    assert effective_members(torch.full((4,), 0.3)) == pytest.approx(4)
    assert effective_members(torch.tensor([0.2, 0.2, 0.0])) == pytest.approx(2)
    assert effective_members(torch.tensor([0.0, 1.0])) == pytest.approx(1)


# The pool.


def test_the_pool_keeps_256_levels_and_the_latest_blocks():
    """With 0 … 2 in 256 levels, 0.5 is 63.75 steps, kept as 64: 0.50196. Of three blocks two stay."""
    span = InputBounds(np.float32(0), np.float32(2), (1,))
    pool = SyntheticRows(span, lambda x: torch.stack([x, 2 * x]), most=2)
    for epoch in range(3):
        pool.add(torch.full((4, 1), 0.5 + epoch), torch.full((4,), epoch), epoch)
    assert len(pool) == 8
    assert pool.labels_N.tolist() == pool.made_N.tolist() == [1] * 4 + [2] * 4
    kept = pool.inputs(torch.tensor([0]))
    assert kept.item() == pytest.approx(2 * round(1.5 / 2 * 255) / 255)
    torch.testing.assert_close(pool.logits_MNC[:, 0, 0], torch.tensor([kept.item(), 2 * kept.item()]))
    again = SyntheticRows(span, lambda x: torch.stack([x, 2 * x]), most=2)
    again.load(pool.state(), "cpu")
    assert torch.equal(again.logits_MNC, pool.logits_MNC)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 5, 7), (4,), (2, 3)])
@pytest.mark.parametrize("classes", [0, 3])
def test_generators_make_rows_of_any_shape(shape, classes):
    made = make_generator(shape, 2, 0, "cpu", classes)
    labels_N = torch.tensor([0, 1, 2]) if classes else None
    same = make_generator(shape, 2, 0, "cpu", classes).state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in made.state_dict().items())
    rows = made(torch.randn((3, 256)), labels_N)
    assert rows.shape == (3, *shape)
    assert ((rows >= 0) & (rows <= 1)).all()


# The guard.


def fooled():
    """Members 0 and 1 know every row's label, a little; member 2 knows nothing, and on made-up rows says what was asked
    for, loudly."""
    rng = torch.Generator().manual_seed(0)
    labels_N = torch.randint(4, (240,), generator=rng)
    sure_NC = functional.one_hot(labels_N, 4).float()
    noise_NC = torch.randn((240, 4), generator=rng)
    honest = torch.stack([sure_NC, sure_NC])
    real = LabelledRows(LOGITS, torch.cat([honest, noise_NC[None]]), labels_N)
    made = LabelledRows(LOGITS, torch.cat([0 * honest, 6 * sure_NC[None]]), labels_N)
    return real, made


class Made:
    """A pool in which all rows were made in one epoch."""

    def __init__(self, judge: LabelledRows, epoch: int) -> None:
        _, self.logits_MNC, self.labels_N = judge
        self.made_N = torch.full_like(self.labels_N, epoch)

    def __len__(self) -> int:
        return len(self.labels_N)


def errors(judge: LabelledRows, weights_M) -> float:
    return judge.measure(torch.as_tensor(weights_M))[1] / len(judge.labels_N)


def test_the_guard_keeps_weights_that_unguarded_steps_ruin():
    """Steps on the made-up rows put all weight on member 2. The server's rows see through it: the guard stays."""
    real, made = fooled()
    uniform = torch.full((3,), 1 / 3)
    plain = SignedWeights(uniform, LOGITS, 0.03, 0.99, 32, seed=0)
    guarded = GuardedWeights(SignedWeights(uniform, LOGITS, 0.03, 0.99, 32, seed=0), {"uniform": uniform}, 20, real)
    for epoch in range(20):
        plain.learn(epoch, Made(made, 19))  # pyright: ignore[reportArgumentType]
        guarded.learn(epoch, Made(made, 19))  # pyright: ignore[reportArgumentType]
    learned, _ = guarded.result()
    assert plain.weights_M[2] > 0.3 and plain.weights_M[:2].sum() < 0.01
    assert errors(real, plain.weights_M) > errors(real, uniform) + 0.3
    assert learned is not None and torch.equal(learned, uniform)
    assert errors(real, guarded.weights_M) <= errors(real, uniform)


def test_the_guard_takes_steps_that_help():
    """The same steps where the loud member is right on the server's rows too."""
    _, made = fooled()
    uniform = torch.full((3,), 1 / 3)
    guarded = GuardedWeights(SignedWeights(uniform, LOGITS, 0.03, 0.99, 32, seed=0), {"uniform": uniform}, 20, made)
    for epoch in range(10):
        guarded.learn(epoch, Made(made, 9))  # pyright: ignore[reportArgumentType]
    learned, told = guarded.result()
    assert learned is not None and learned[2] > 0.3 and learned[:2].sum() < 0.01
    assert told["weights_learned"] == told["judge_labelled"] == 1
    assert told["judged_learned"] < told["judged_uniform"]


def test_without_rows_the_first_epochs_judge_and_half_of_the_members_stay():
    """Of ten epochs the first makes the judging rows: they see through member 2, so nothing moves. If they are as
    easily fooled as the later ones, weights move until they are worth half of the members, 1.5."""
    real, made = fooled()
    uniform = torch.full((3,), 1 / 3)

    def after(judging: LabelledRows) -> torch.Tensor:
        guarded = GuardedWeights(SignedWeights(uniform, LOGITS, 0.03, 0.99, 32, seed=0), {"uniform": uniform}, 10, None)
        guarded.learn(1, Made(judging, 0))  # pyright: ignore[reportArgumentType]
        for epoch in range(2, 10):
            guarded.learn(epoch, Made(made, 1))  # pyright: ignore[reportArgumentType]
        assert guarded.result()[1]["judge_labelled"] == 0
        return guarded.weights_M

    assert torch.equal(after(real), uniform)
    moved = after(made)
    assert moved[2] > 0.4
    assert effective_members(moved) >= 1.5


def test_learned_weights_must_be_clearly_better():
    """Losses of three rows, by two logits each: with w = (1, 0) A = (d, 0) and the loss is log(1 + exp(-d)). Changes
    all equal have no spread: better. A single row that gains much is not clearly better: the mean change, -1/3 of what
    it gains, is as large as its standard error (g / sqrt(3) / sqrt(3) = g / 3)."""
    zeros = torch.zeros((3, 2))
    all_gain = LabelledRows(
        LOGITS, torch.stack([zeros, torch.tensor([[1.0, 0.0]] * 3)]), torch.zeros(3, dtype=torch.long)
    )
    gain = torch.tensor([[9.0, 0], [0, 0], [0, 0]])
    one_gains = LabelledRows(LOGITS, torch.stack([zeros, gain]), torch.zeros(3, dtype=torch.long))
    old, new = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert all_gain.clearly_better(new, old) and not all_gain.clearly_better(old, new)
    assert one_gains.no_worse(new, old) and not one_gains.clearly_better(new * 1.0, old)
    assert all_gain.best({"uniform": old, "learned": new}) == "learned"
    assert one_gains.best({"uniform": old, "learned": new}) == "uniform"


def test_labelled_rows_begin_the_guard_with_the_better_known_weights():
    real, _ = fooled()
    known = {"uniform": torch.full((3,), 1 / 3), "feddisco": torch.tensor([0.5, 0.5, 0.0])}
    guarded = GuardedWeights(SignedWeights(known["uniform"], LOGITS, 0.1, 1.0, 32, seed=0), known, 10, real)
    assert torch.equal(guarded.weights_M, known["feddisco"])
    found, told = guarded.result()
    assert found is not None and torch.equal(found, known["feddisco"])
    assert told["weights_learned"] == 0


@pytest.mark.parametrize(("labelled", "judges"), [(49, 0.0), (50, 1.0)])
def test_fewer_than_fifty_labelled_rows_are_no_judge(labelled, judges):
    """Of 50 rows 25 have the last word. Without, rows made up have it, but for means by class, whose weights stay."""
    given = {**SHORT["coboost"], "epochs": 2}
    way = distiller("coboost", {"coboost": {**given, "average": "logits"}})
    done = way.distill(teachers(*MLPS), UNIFORM, student(), server(labelled=labelled), Context(0))
    assert done.metrics["judge_labelled"] == judges
    assert done.metrics["judge_rows"] == (25 if judges else 20)
    done = distiller("coboost", {"coboost": given}).distill(
        teachers(*MLPS), UNIFORM, student(), server(labelled=labelled), Context(0)
    )
    assert (done.weights_M is not None) == bool(judges)


def test_with_its_parts_switched_off_weights_stay():
    way = distiller("coboost", {"coboost": {**SHORT["coboost"], "weights": "off"}})
    done = way.distill(teachers(*MLPS), UNIFORM, student(), server(), Context(0))
    assert done.weights_M is None
    assert "judge_rows" not in done.metrics
    taught = []
    for part in ("hard_samples", "diverse_samples", "weights"):
        off = {"weights": "off"} if part == "weights" else {part: False, "weights": "unguarded"}
        other = student()
        way = distiller("coboost", {"coboost": {**SHORT["coboost"], **off}})
        way.distill(teachers(*MLPS), UNIFORM, other, server(), Context(0))
        taught.append(other.predict(digits()[0][:20]))
    assert len({probs_NC.tobytes() for probs_NC in taught}) == 3


# Rounds.


def test_refining_a_merged_model_undoes_what_averaging_did():
    """The mean of teachers that know five classes each, and the same after a round's fine-tuning."""
    known, merged = teachers(*(Lenet(),) * 3), student(Lenet())
    begin_student("mean", merged, known, UNIFORM)
    before = accuracy(merged)
    told, _ = Fedftg(width=8).refine(merged, known, server(labelled=0), Context(0), 2, {})
    assert accuracy(merged) > before + 0.05
    assert np.isfinite(list(told.values())).all()
    probs, memory = [], {}
    for round, given in ((2, False), (2, False), (3, False), (2, True)):
        again = student(Lenet())
        begin_student("mean", again, known, UNIFORM)
        way = Fedftg(width=8, iterations=1)
        _, memory = way.refine(again, known, server(labelled=0), Context(0), round, memory if given else {})
        probs.append(again.predict(digits()[0][:9]))
    np.testing.assert_array_equal(probs[0], probs[1])
    assert not np.array_equal(probs[0], probs[2])
    assert not np.array_equal(probs[0], probs[3])


def test_a_generator_goes_on_where_the_round_before_left_it():
    """Its first step of the second round counts as its fourth: three teachers, a step for each."""
    known, merged = teachers(*MLPS), student()
    way, memory = Fedftg(width=2, iterations=1), {}
    for steps in (3, 6):
        _, memory = way.refine(merged, known, server(labelled=0), Context(0), 0, memory)
        assert memory["moments/0/step"] == steps
    same, other = (student(), student())
    for each, given in ((same, {name: array.copy() for name, array in memory.items()}), (other, memory)):
        way.refine(each, known, server(labelled=0), Context(0), 2, given)
    np.testing.assert_array_equal(same.predict(digits()[0][:9]), other.predict(digits()[0][:9]))


def test_the_mean_of_teachers_by_hand():
    """0.75 w_0 + 0.25 w_1, whatever the weights sum to."""
    known, merged = teachers(*MLPS)[:2], student()
    begin_student("mean", merged, known, np.array([3.0, 1.0]))
    for name, array in merged.state().arrays.items():
        first, second = (member.state().arrays[name] for member in known)
        np.testing.assert_allclose(array, 0.75 * first + 0.25 * second, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "coboost", "perturbation": 0.1, "diverse_samples": False}, "perturbation: 0.1 has no effect"),
        ({"kind": "coboost", "step": 0.1, "weights": "off"}, "step: 0.1 has no effect with weights: off"),
        ({"kind": "coboost", "decay": 0.9, "weights": "off"}, "decay: 0.9 has no effect with weights: off"),
        ({"kind": "coboost", "weights": "gaurded"}, "distill.weights"),
        ({"kind": "dense", "pool": 100}, "pool: must hold a batch of 128 rows, found 100"),
        ({"kind": "noise", "temperature": 0}, "distill.temperature"),
        ({"kind": "feddf", "average": "votes"}, "distill.average"),
        ({"kind": "fedftg", "decay": 1.5}, "distill.decay"),
    ],
)
def test_options_that_make_no_sense_are_refused(spec, message):
    with pytest.raises(ConfigError) as found:
        registry.make_plugin("distill", spec, "distill")
    assert message in str(found.value)


def test_what_the_paper_does_is_what_defaults_do():
    """200 epochs of 128 rows, 30 steps, a generator of width 64; the guard and the mean by class are ours."""
    assert Coboost().epochs * Coboost().batch_size == Coboost().pool == 25_600
    assert (Coboost().generator_steps, Coboost().width, Coboost().weights) == (30, 64, "guarded")
