"""Folds: how rows are divided, and that each fold's scale is that of the rows that it learns from."""

import numpy as np
import pandas as pd
import pytest

from distens.config.config import parse_config
from distens.config.sections import DataSection
from distens.data import folds
from distens.data.arrays import Images
from distens.data.folds import Rescaling, take_rescaling
from distens.data.load import has_same_rows, load_data
from distens.data.preprocessing import Preprocessing
from distens.errors import ConfigError, DataError
from distens.records import State
from distens.storage.store import Store


def test_rows_are_divided_by_hand():
    """Ten rows in three folds: 4, 3 and 3; of each stratum, as many in every fold as whole rows allow."""
    strata_N = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 2])
    fold_RN = folds.divide(strata_N, 3, 2, seed=1)
    assert fold_RN.shape == (2, 10) and (fold_RN[0] != fold_RN[1]).any()
    for fold_N in fold_RN:
        assert sorted(np.bincount(fold_N)) == [3, 3, 4]
        assert [np.bincount(fold_N[strata_N == stratum], minlength=3).tolist() for stratum in (0, 1)] == [
            [1] * 3,
            [2] * 3,
        ]
    np.testing.assert_array_equal(fold_RN, folds.divide(strata_N, 3, 2, seed=1))
    with pytest.raises(DataError, match=r"data\.folds: 6 folds of 10 rows; at least 12 rows are needed"):
        folds.divide(strata_N, 6, 1, seed=1)


def test_folds_by_hand():
    """Rows 0 to 4 in folds 0, 0, 0, 1, 1: the second learns from three rows, of which one of stratum 1 is left out."""
    inputs = np.array([[1.0], [2.0], [3.0], [5.0], [9.0]], dtype=np.float32)
    strata_N = np.array([1, 0, 1, 1, 0])
    first, second = folds.make_folds(np.array([[0, 0, 0, 1, 1]]), strata_N, inputs, 1, np.zeros(0, dtype=np.int64))
    assert (first.name, second.name) == ("fold1", "fold2")
    assert (first.held_N.tolist(), first.learned_N.tolist()) == ([0, 1, 2], [3, 4])
    assert (second.held_N.tolist(), second.learned_N.tolist()) == ([3, 4], [0, 1])
    np.testing.assert_allclose(first.rescaling.apply(inputs)[:, 0], (inputs[:, 0] - 7) / 2)
    np.testing.assert_allclose(second.rescaling.apply(inputs)[:, 0], (inputs[:, 0] - 1.5) / 0.5)


def test_a_rescaling_by_hand():
    """Values 1, 3 and 8 are known and the fourth is missing: median 3, mean 15/4, variance 107/16; 5 is held out."""
    inputs = np.array([[1, 7, 0], [3, 7, 0], [8, 7, 0], [0, 7, 1], [5, 6, 0]], dtype=np.float32)
    found = Rescaling.fit(inputs, np.arange(4), 2, np.array([0]))
    deviation = np.sqrt(107) / 4
    expected = (np.array([1, 3, 8, 3, 5]) - 3.75) / deviation
    scaled = found.apply(inputs)
    np.testing.assert_allclose(scaled[:, 0], expected, rtol=1e-6)
    assert (scaled[:, 1] == 0).all()  # constant in the rows that are learned
    np.testing.assert_array_equal(scaled[:, 2], inputs[:, 2])
    assert (inputs[3] == [0, 7, 1]).all()


def test_the_scale_is_that_of_a_preprocessing_fitted_to_the_fold():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(50, 3, 60), "b": rng.exponential(size=60), "c": list("xyz") * 20})
    table.loc[::4, "a"] = np.nan
    section, learned_N = DataSection(source="t"), np.arange(45)
    whole, own = (Preprocessing.fit(table, rows, section) for rows in (np.arange(60), learned_N))
    inputs = whole.transform(table)
    scaled = Rescaling.fit(inputs, learned_N, *whole.numbers).apply(inputs)
    np.testing.assert_allclose(scaled, own.transform(table), atol=1e-5)
    images = rng.integers(0, 255, (20, 4, 4, 3)).astype(np.uint8)
    whole, own = (Preprocessing(Images.fit(images, rows)) for rows in (np.arange(20), np.arange(15)))
    inputs = whole.transform(images)
    scaled = Rescaling.fit(inputs, np.arange(15), *whole.numbers).apply(inputs)
    np.testing.assert_allclose(scaled, own.transform(images), atol=1e-5)


def test_the_rows_of_train_and_search_are_divided(tmp_path):
    whole = load_data(DataSection(source="sklearn:wine"), 0)
    loaded = load_data(DataSection.model_validate({"source": "sklearn:wine", "folds": {"folds": 4, "repeats": 2}}), 0)
    data = loaded.dataset
    assert {*loaded.split_rows["train"]} == {*whole.split_rows["train"], *whole.split_rows["search"]}
    for split in ("combine", "test"):
        np.testing.assert_array_equal(loaded.split_rows[split], whole.split_rows[split])
    assert data.inputs["search"] is data.inputs["train"] and data.targets["search"] is data.targets["train"]
    rows = len(data.targets["train"])
    assert [fold.name for fold in data.folds] == [f"fold{i}" for i in range(1, 9)]
    for repeat in (0, 1):
        own = [fold for fold in data.folds if fold.repeat == repeat]
        assert sorted(np.concatenate([fold.held_N for fold in own])) == list(range(rows))
    assert np.concatenate([fold.held_N for fold in data.folds[:4]]).tolist() == list(range(rows))  # fold by fold
    assert len({len(fold.learned_N) for fold in data.folds}) == 1
    assert all(not {*fold.held_N} & {*fold.learned_N} for fold in data.folds)
    assert "divided 2 times into 4 folds" in loaded.summary and data.fingerprint != whole.fingerprint
    loaded.keep(Store(str(tmp_path)))
    assert has_same_rows(DataSection(source="sklearn:wine"), Store(str(tmp_path)), data.fingerprint)


def test_a_rescaling_in_a_file_is_checked():
    found = Rescaling.fit(np.eye(4, dtype=np.float32), np.arange(4), 3, np.array([1]))
    state = found.add_to(State({"weight": np.ones(2)}, {"k": 1}))
    own, read = take_rescaling(state, (4,))
    assert list(own.arrays) == ["weight"] and own.meta == {"k": 1} and read.key == found.key
    assert take_rescaling(own, (4,)) == (own, None)
    for name, array, words in (
        ("scale", np.full(4, np.inf, dtype=np.float32), "scale is no array of finite float32"),
        ("scale", np.ones(4), "scale is no array of finite float32"),
        ("shift", np.ones(3, dtype=np.float32), r"not \(4,\)"),
        ("columns", np.array([1, 2]), "contradict each other"),
        ("indicators", np.array([4]), "are not among 4 columns"),
        ("columns", np.array([-1]), "are not among 4 columns"),
    ):
        with pytest.raises(ValueError, match=words):
            take_rescaling(State({**state.arrays, f"rescaling/{name}": array}), (4,))
    del state.arrays["rescaling/fill"]
    with pytest.raises(ValueError, match="has the arrays"):
        take_rescaling(state, (4,))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (1, "folds: .*greater than or equal to 2"),
        ({"folds": 3, "repeats": 0}, "repeats: .*greater than or equal to 1"),
        ({"repeats": 2}, "folds.folds: "),
        ({"folds": 3, "fold": 2}, r"data\.folds\.fold: unknown key\. Did you mean 'folds'"),
        (True, "data.folds: "),
    ],
)
def test_wrong_folds_are_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        parse_config({"name": "x", "data": {"source": "sklearn:iris", "folds": given}, "members": {"m": {"kind": "a"}}})
