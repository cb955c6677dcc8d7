"""Arithmetic on probabilities, with numbers worked by hand."""

import numpy as np
import pytest

from distens import probabilities
from distens.evaluate import baselines
from distens.models.mlp import Mlp
from distens.targets.classes import Classes
from distens.training.network import count_parameters


def test_metrics_by_hand():
    """p(label) = 1/2, 1/4, 1: nll = (ln 2 + ln 4 + 0) / 3 = ln 2; the second row's largest class is not its label."""
    probs_NC = np.array([[0.5, 0.3, 0.2], [0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    found = probabilities.class_metrics(probs_NC, np.array([0, 0, 2]))
    assert found == pytest.approx({"nll": np.log(2), "error": 1 / 3})


@pytest.mark.parametrize("certain", [1.0, 1.0 + 2e-16, np.nextafter(1, 2), np.float32(1)])
def test_nothing_costs_less_than_nothing(certain):
    """A minus before 0.0000 would be read as a gain; a probability may be rounded to above 1."""
    probs_NC, labels_N = np.array([[certain, 0.0]] * 3), np.zeros(3, np.int64)
    target = Classes(("a", "b"))
    found = [
        probabilities.negative_log_likelihood(probs_NC, labels_N),
        *probabilities.class_metrics(probs_NC, labels_N).values(),
        *(value for name, value in target.table(probs_NC, labels_N).items() if name != "accuracy"),
        target.sum_loss(np.minimum(probs_NC, 1), labels_N, "nll"),
        *target.losses(np.minimum(probs_NC, 1), labels_N)["nll"].tolist(),
    ]
    assert [f"{value:.4f}" for value in found] == ["0.0000"] * len(found)


def test_what_is_not_a_number_stays_none():
    assert np.isnan(probabilities.negative_log_likelihood(np.array([[np.nan, 0.5]]), np.array([0])))


def test_mix_by_hand():
    """1/4 (1, 0) + 3/4 (1/3, 2/3) = (1/2, 1/2)."""
    mixed_NC = probabilities.mix([np.array([[1.0, 0.0]]), np.array([[1 / 3, 2 / 3]])], np.array([0.25, 0.75]))
    assert mixed_NC == pytest.approx(np.array([[0.5, 0.5]]))


def test_a_temperature_by_hand():
    """softmax(log p / 2) of (0.8, 0.2) is (sqrt 0.8, sqrt 0.2) normalised = (2/3, 1/3), as sqrt 0.8 = 2 sqrt 0.2."""
    assert probabilities.apply_temperature(np.array([[0.8, 0.2]]), 2.0) == pytest.approx(np.array([[2 / 3, 1 / 3]]))


def test_with_many_rows_the_temperature_is_the_one_that_made_them():
    """Labels are drawn from the probabilities; these sharpened by T = 1/2 need T = 2 to be right again."""
    rng = np.random.default_rng(0)
    true_NC = rng.dirichlet([1, 1, 1], size=20_000)
    labels_N = np.array([rng.choice(3, p=p) for p in true_NC])
    sharp_NC = probabilities.apply_temperature(true_NC, 0.5)
    assert probabilities.fit_temperature(sharp_NC, labels_N) == pytest.approx(2.0, abs=0.1)


def test_with_few_rows_all_right_the_temperature_stays_near_one():
    """The likelihood alone would choose the sharpest temperature there is."""
    probs_NC = np.tile([0.95, 0.05], (100, 1))
    found = probabilities.fit_temperature(probs_NC, np.zeros(100, dtype=np.int64))
    assert 0.5 < found < 1.0


def test_probabilities_stay_probabilities():
    found = probabilities.normalise(np.array([[0.0, 0.0, 2.0]]))
    assert found.sum() == pytest.approx(1.0)
    assert (found > 0).all()
    assert probabilities.softmax(np.array([[1e4, 0.0]])).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("wanted", [500, 5_000, 100_000])
def test_a_widened_network_has_the_parameters_wanted(wanted):
    """4 inputs, hidden h, 3 classes: 5 h + 3 (h + 1) = 8 h + 3 parameters, so any number to within 8."""
    model = baselines.widen(Mlp(hidden=(8,)), wanted, (4,), 3)
    assert count_parameters(model, (4,), 3) == pytest.approx(wanted, abs=8)


def test_a_network_that_cannot_be_widened_stays_as_it_is():
    assert count_parameters(baselines.widen(Mlp(hidden=()), 1_000, (4,), 3), (4,), 3) == 15


def test_a_student_has_no_dropout():
    settings = {
        "family": "a",
        "kind": "classifier",
        "model": {"kind": "mlp", "hidden": [8], "dropout": 0.4},
        "epochs": 2,
    }
    found = baselines.without_dropout(settings)
    assert found["model"] == {"kind": "mlp", "hidden": [8], "dropout": 0.0, "activation": "relu"}
    assert {**found, "model": None} == {**settings, "model": None}
