from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from distens import registry
from distens.data.dataset import Examples
from distens.distill.protocol import DataFree
from distens.distill.student import Student
from distens.errors import ConfigError
from distens.probabilities import negative_log_likelihood, softmax
from distens.training.context import Context


class Says:
    """A teacher that says what a function of the inputs gives."""

    def __init__(self, function):
        self._function = function

    def predict(self, inputs):
        return self._function(inputs)


class Logistic:
    """A student: multinomial logistic regression by full gradient steps; it keeps what it was given."""

    def fit(self, examples: Examples, context: Context) -> Mapping[str, float]:
        self.seen, self.seed = examples, context.seed
        x = _with_ones(examples.inputs)
        self.weights = np.zeros((x.shape[1], examples.classes))
        targets: Any = np.asarray(examples.targets)
        targets_NC = targets if targets.ndim == 2 else np.eye(examples.classes)[targets]
        for _ in range(300):
            self.weights += x.T @ (targets_NC - softmax(x @ self.weights)) / len(x)
        return {"parameters": float(self.weights.size)}

    def predict(self, inputs):
        return softmax(_with_ones(inputs) @ self.weights).astype(np.float32)


def _with_ones(inputs):
    flat = np.asarray(inputs, dtype=np.float64).reshape(len(inputs), -1)
    return np.hstack([flat, np.ones((len(flat), 1))])


def _constant(*probs):
    return Says(lambda inputs: np.tile(np.array(probs, dtype=np.float32), (len(inputs), 1)))


def _examples(rows: int = 24, shape: tuple[int, ...] = (3,), classes: int = 2, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, *shape)).astype(np.float32)
    labels_N = rng.integers(0, classes, rows)
    inputs.setflags(write=False)
    labels_N.setflags(write=False)
    return Examples(inputs, labels_N, classes)


KINDS = [
    kind
    for kind in registry.names("distill")
    if not registry.has_capability(
        registry.find_plugin("distill", kind, "distill"), DataFree
    )  # those sit an exam of their own
]


@pytest.fixture(params=KINDS)
def distiller(request):
    return registry.make_plugin("distill", request.param, "distill")


# The exam that every distiller sits.


@pytest.mark.parametrize("shape", [(3,), (1, 4, 5)])
def test_student_learns_from_probabilities_in_float32(distiller, shape):
    examples, student = _examples(shape=shape), Logistic()
    metrics = distiller.distill([_constant(0.8, 0.2)], np.ones(1), student, examples, Context(seed=3))
    assert metrics["parameters"] == 2 * (np.prod(shape) + 1)  # the student's own metrics are passed on
    assert len(student.seen.inputs) == distiller.growth * len(examples.inputs)
    assert student.seen.inputs.dtype == np.float32
    assert student.seen.inputs.shape[1:] == shape
    targets_NC = np.asarray(student.seen.targets)
    assert targets_NC.dtype == np.float32
    assert targets_NC.shape == (len(student.seen.inputs), 2)
    np.testing.assert_allclose(targets_NC.sum(axis=1), 1, atol=1e-6)
    assert student.seed == 3


def test_same_seed_same_student(distiller):
    weights = []
    for seed in (5, 5, 6):
        student = Logistic()
        teachers = [Says(lambda x: softmax(x[:, :2]).astype(np.float32)), _constant(0.3, 0.7)]
        distiller.distill(teachers, np.array([0.5, 0.5]), student, _examples(), Context(seed=seed))
        weights.append(student.weights)
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_order_of_teachers_changes_nothing(distiller):
    teachers = [_constant(0.9, 0.1), _constant(0.6, 0.4), _constant(0.2, 0.8)]
    weights_M = np.array([0.5, 0.3, 0.2])
    one, two = Logistic(), Logistic()
    distiller.distill(teachers, weights_M, one, _examples(), Context(seed=1))
    distiller.distill(teachers[::-1], weights_M[::-1], two, _examples(), Context(seed=1))
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-6)


# By hand.


def _targets(distiller: Student, *teachers: Says, weights=(0.75, 0.25)):
    student = Logistic()
    examples = Examples(np.zeros((1, 1), dtype=np.float32), np.array([1]), 2)
    distiller.distill(teachers, np.array(weights), student, examples, Context(seed=0))
    return np.asarray(student.seen.targets)


def test_soft_targets_by_hand():
    """0.75 (0.8, 0.2) + 0.25 (0.4, 0.6) = (0.7, 0.3). At temperature 2 the odds are sqrt(0.7 / 0.3) = 1.527525, so
    1.527525 / 2.527525 = 0.604356. With half the label (0, 1): (0.35, 0.65)."""
    teachers = _constant(0.8, 0.2), _constant(0.4, 0.6)
    np.testing.assert_allclose(_targets(Student(copies=0), *teachers), [[0.7, 0.3]], atol=1e-6)
    np.testing.assert_allclose(
        _targets(Student(copies=0, temperature=2.0), *teachers), [[0.604356, 0.395644]], atol=1e-6
    )
    np.testing.assert_allclose(_targets(Student(copies=0, labels=0.5), *teachers), [[0.35, 0.65]], atol=1e-6)


def test_made_up_rows_lie_between_two_rows_and_are_labelled_by_the_teacher():
    """Inputs are 1 for class 0 and 0 for class 1; the teacher says (x, 1 - x). A row mixed with share s from classes 0
    and 1 has x = s, the teacher says (s, 1 - s), and so do its mixed labels: whatever the share of labels in the
    targets, targets = (x, 1 - x)."""
    labels_N = np.array([0, 1] * 20)
    examples = Examples((1.0 - labels_N[:, None]).astype(np.float32), labels_N, 2)
    teacher = Says(lambda x: np.hstack([x, 1 - x]))
    for share in (0.0, 0.5):
        student = Logistic()
        metrics = Student(copies=3, labels=share).distill([teacher], np.ones(1), student, examples, Context(seed=0))
        x = student.seen.inputs
        np.testing.assert_array_equal(x[:40], examples.inputs)
        np.testing.assert_allclose(student.seen.targets, np.hstack([x, 1 - x]), atol=1e-6)
        made = x[40:, 0]
        assert len(made) == 120
        assert metrics["rows"] == 160
        assert metrics["teacher_seconds"] >= 0
        assert (made >= 0).all()
        assert (made <= 1).all()
        assert ((made > 0.01) & (made < 0.99)).sum() > 30  # half of the pairs are of two classes


def test_mixup_near_zero_copies_rows_and_large_mixup_halves_them():
    """Beta(a, a) sits at 0 and 1 for small a and at 1/2 for large a; rows 0 and 1 are then mixed to 0.5 or kept."""
    labels_N = np.array([0, 1] * 50)
    examples = Examples(labels_N[:, None].astype(np.float32), labels_N, 2)

    def between(mixup: float) -> float:
        student = Logistic()
        distiller = Student(copies=1, mixup=mixup)
        distiller.distill([_constant(0.5, 0.5)], np.ones(1), student, examples, Context(seed=0))
        made = student.seen.inputs[100:, 0]
        mixed = made[(made != 0) & (made != 1)]
        return float(np.abs(mixed - 0.5).mean()) if len(mixed) else 0.5

    assert between(0.01) > 0.45
    assert between(1000.0) < 0.03


def test_soft_labels_teach_more_than_a_few_noisy_ones():
    """Twelve rows with labels drawn from known probabilities: the teachers know those, the labels are one draw."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(512, 4)).astype(np.float32)
    true = Says(lambda x: softmax(np.stack([x[:, 0] - x[:, 1], x[:, 1] + x[:, 2]], axis=1)))
    labels_N = (rng.random(512) < true.predict(inputs)[:, 1]).astype(np.int64)
    few = Examples(inputs[:12], labels_N[:12], 2)
    taught, told = Logistic(), Logistic()
    Student(copies=8).distill([true], np.ones(1), taught, few, Context(seed=0))
    told.fit(few, Context(seed=0))
    fresh, labels_N = inputs[12:], labels_N[12:]
    loss_taught, loss_told = (negative_log_likelihood(s.predict(fresh), labels_N) for s in (taught, told))
    assert loss_taught < loss_told - 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 0, "mixup": 0.5}, "mixup: 0.5 has no effect with copies: 0"),
        ({"copies": -1}, "distill.copies"),
        ({"temperature": 0}, "distill.temperature"),
        ({"labels": 1.0}, "distill.labels"),
        ({"mixup": 0}, "distill.mixup"),
        ({"copy": 3}, "Did you mean 'copies'"),
        ({"network": {"kind": "no_such_member"}}, "distill.network.kind: unknown members kind 'no_such_member'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError) as found:
        registry.make_plugin("distill", {"kind": "student", **options}, "distill")
    assert message in str(found.value)


def test_the_students_network_is_a_member():
    spec = {"kind": "student", "network": {"kind": "classifier", "epochs": 7}}
    distiller = registry.make_plugin("distill", spec, "distill")
    assert distiller.network.epochs == 7
    again = registry.resolve_options(distiller)
    assert again["network"]["kind"] == "classifier"
    assert registry.make_plugin("distill", again, "distill") == distiller
    with pytest.raises(ConfigError, match=r"distill\.network\.epochs"):
        registry.make_plugin("distill", {"kind": "student", "network": {"kind": "classifier", "epochs": 0}}, "distill")
