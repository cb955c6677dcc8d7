"""A check of a stored estimator's numbers, once skops has made it: compiled code can walk what passes.

scikit-learn states many sizes twice, as an attribute and as an array's shape, and its compiled code believes one and
reads by the other. Here every size that a prediction uses is compared with the number of features and of classes, and
every parameter with the settings.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens.errors import shorten_value
from distens.members import _families
from distens.members._families import Family
from distens.records import Integers

MAX_ABSENT_NEIGHBOURS = 1000
"""The most neighbours that may be asked for where there are fewer rows; scikit-learn allocates them all."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that an estimator's arrays must have.

    Attributes:
        features: the number of features.
        classes: the number of classes that it learned; 1 for a regressor.
    """

    features: int
    classes: int

    @property
    def outputs(self) -> int:
        """Return the number of decisions a row: one for two classes."""
        return self.classes if self.classes > 2 else 1


def check_fitted(fitted: Any, family: Family, options: Mapping[str, Any], outputs: int) -> None:
    """Refuse an estimator that is not of the family and settings, or whose sizes contradict each other.

    Args:
        outputs: the number of predicted numbers a row.

    Raises:
        ValueError: the message gives the reason.
        Exception: an attribute is missing, or of another type.
    """
    _check_type(fitted, _families.stored_class(family))
    _check_attributes(fitted)
    if not family.numbers:
        _check_classes(fitted.classes_, outputs)
    elif outputs != 1:
        raise ValueError(f"it has {outputs} outputs, not 1")
    made = _families.make_estimator(family, options)
    for part in _unwrap_estimators(fitted, family):
        _check_type(part, type(made))
        _check_parameters(part, made)
        if not family.numbers and not np.array_equal(part.classes_, fitted.classes_):
            raise ValueError("its parts have other classes than it has")
        sizes = Sizes(_count(part, "n_features_in_"), 1 if family.numbers else len(part.classes_))
        CHECKS[family.path](part, made, sizes)


def _unwrap_estimators(fitted: Any, family: Family) -> list[Any]:
    """Return the family's own estimators within a stored one, which may wrap them."""
    if family.calibrated:
        return list(_calibrated(fitted))
    if not family.scaled:
        return [fitted]
    from sklearn.preprocessing import StandardScaler

    _check_type(fitted.regressor, family.load())
    for scaler in (fitted.transformer, fitted.transformer_):
        _check_type(scaler, StandardScaler)
        _check_parameters(scaler, StandardScaler())
    _check_arrays(fitted.transformer_, mean_=(1,), scale_=(1,))
    if fitted._training_dim != 1:
        raise ValueError(f"its targets have {shorten_value(fitted._training_dim)} axes, not 1")
    return [fitted.regressor_]


def _calibrated(fitted: Any) -> Iterator[Any]:
    from sklearn.calibration import _CalibratedClassifier, _SigmoidCalibration

    (one,) = fitted.calibrated_classifiers_
    _check_type(one, _CalibratedClassifier)
    _check_values(one, method="sigmoid")
    classes = len(fitted.classes_)
    if not np.array_equal(one.classes, fitted.classes_) or len(one.calibrators) != (classes if classes > 2 else 1):
        raise ValueError("its calibration is of other classes than its own")
    for calibrator in one.calibrators:
        _check_type(calibrator, _SigmoidCalibration)
        if not np.ndim(calibrator.a_) == np.ndim(calibrator.b_) == 0:
            raise ValueError("its calibration has several slopes or intercepts")
    yield one.estimator


# Comparisons ---------------------------------------------------------------------------------------------------------


def _check_type(found: Any, wanted: type) -> None:
    if type(found) is not wanted:
        raise ValueError(f"it is a {type(found).__name__}, not a {wanted.__name__}")


def _check_attributes(fitted: Any) -> None:
    """Refuse attributes that hide something of their object's class, such as a method."""
    left, seen = [fitted], set[int]()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list | tuple):
            left.extend(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            for key in vars(value):
                if hasattr(type(value), key):
                    raise ValueError(f"a {type(value).__name__} has a {shorten_value(key)} of its own")
            left.extend(vars(value).values())


def _check_classes(found: Any, classes: int) -> None:
    labels_C = np.asarray(found)
    inside = type(found) is np.ndarray and labels_C.ndim == 1 and labels_C.dtype.kind in "iu" and len(labels_C)
    if not inside or labels_C[0] < 0 or labels_C[-1] >= classes or (np.diff(labels_C) <= 0).any():
        raise ValueError(f"its classes are {shorten_value(labels_C.tolist())}, not some of {classes} in order")


def _check_parameters(fitted: Any, made: Any) -> None:
    """Check an estimator's parameters against those of one made from the settings."""
    wanted = made.get_params(deep=False)
    found = [(key, getattr(fitted, key, value)) for key, value in wanted.items()]
    for key, value in [*found, *getattr(fitted, "_other_params", {}).items()]:  # LightGBM prefers these
        if key == "random_state":
            if type(value) not in (int, type(None)):  # others may draw from memory that is not theirs
                raise ValueError(f"its random_state is {shorten_value(value)}, not a whole number")
        elif repr(value) != repr(wanted.get(key)):
            raise ValueError(
                f"its {key} is {shorten_value(value)}, expected {shorten_value(wanted.get(key))} by the settings"
            )


def _check_values(part: Any, **wanted: object) -> None:
    for key, value in wanted.items():
        found = getattr(part, key)
        plain = found.item() if isinstance(found, np.generic) else found
        if type(plain) is not type(value) or plain != value:
            raise ValueError(f"its {key} is {shorten_value(found)}, not {shorten_value(value)}")


def _check_arrays(part: Any, kind: str = "f", **shapes: tuple[int, ...]) -> None:
    for key, shape in shapes.items():
        _check_array(key, getattr(part, key), shape, kind)


def _check_array(key: str, found: Any, shape: tuple[int, ...], kind: str = "f") -> None:
    if type(found) is not np.ndarray or found.dtype.kind not in kind:
        raise ValueError(f"its {key} is {shorten_value(found)}, not an array of numbers")
    if found.shape != shape:
        raise ValueError(f"its {key} is of shape {found.shape}, not {shape}")


def _check_length(key: str, found: Any, length: int) -> None:
    if type(found) is not list or len(found) != length:
        raise ValueError(f"its {key} are {shorten_value(found)}, not a list of {length}")


def _count(part: Any, key: str) -> int:
    found = getattr(part, key)
    if not isinstance(found, int | np.integer) or isinstance(found, bool) or found < 1:
        raise ValueError(f"its {key} is {shorten_value(found)}, not a positive whole number")
    return int(found)


def _check_nodes(inner_N: Any, left_N: Integers, right_N: Integers, feature_N: Integers, features: int) -> None:
    """Refuse a tree that cannot be walked; in every tree that was grown, a child comes after its parent."""
    places = np.flatnonzero(inner_N)
    sound = len(inner_N) > 0 and all(
        (child_N[places] > places).all() and (child_N[places] < len(inner_N)).all() for child_N in (left_N, right_N)
    )
    if not (sound and (feature_N[places] >= 0).all() and (feature_N[places] < features).all()):
        raise ValueError("a tree leads in circles, out of itself, or to missing features")


# Families ------------------------------------------------------------------------------------------------------------


def _check_forest(fitted: Any, made: Any, sizes: Sizes) -> None:
    if type(fitted.n_outputs_) is not int or fitted.n_outputs_ != 1:
        raise ValueError(f"it has {shorten_value(fitted.n_outputs_)} outputs, not 1")
    _check_length("estimators_", fitted.estimators_, made.n_estimators)
    _check_trees(fitted, sizes)


def _check_boosted_trees(fitted: Any, made: Any, sizes: Sizes) -> None:
    trees = fitted.estimators_
    if type(trees) is not list or not 1 <= len(trees) <= made.n_estimators:
        raise ValueError(f"its estimators_ are not a list of 1 to {made.n_estimators}")
    _check_arrays(fitted, estimator_weights_=(made.n_estimators,))
    _check_trees(fitted, sizes)


def _check_trees(fitted: Any, sizes: Sizes) -> None:
    from sklearn.base import RegressorMixin
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor
    from sklearn.tree._tree import Tree

    numbers = isinstance(fitted, RegressorMixin)
    kinds = (DecisionTreeRegressor, ExtraTreeRegressor) if numbers else (DecisionTreeClassifier, ExtraTreeClassifier)
    for part in (fitted, *fitted.estimators_):
        if not numbers:
            _check_values(part, n_classes_=sizes.classes)
        if part is fitted:
            continue
        if type(part) not in kinds or type(part.tree_) is not Tree:
            raise ValueError(f"a {type(part).__name__} among its trees")
        _check_values(part, n_outputs_=1, n_features_in_=sizes.features)
        if not numbers:
            _check_arrays(part, "iuf", classes_=(sizes.classes,))
        tree = part.tree_
        _check_values(tree, n_features=sizes.features, n_outputs=1, max_n_classes=sizes.classes)
        _check_nodes(tree.children_left != -1, tree.children_left, tree.children_right, tree.feature, sizes.features)


def _check_histogram(fitted: Any, made: Any, sizes: Sizes) -> None:
    from sklearn._loss.loss import HalfBinomialLoss, HalfMultinomialLoss
    from sklearn.ensemble._hist_gradient_boosting.binning import _BinMapper
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

    _check_type(fitted._bin_mapper, _BinMapper)
    _check_type(fitted._loss, HalfBinomialLoss if sizes.outputs == 1 else HalfMultinomialLoss)
    _check_values(fitted, n_trees_per_iteration_=sizes.outputs)
    _check_arrays(fitted, _baseline_prediction=(1, sizes.outputs))
    _check_arrays(fitted._bin_mapper, "bu", is_categorical_=(sizes.features,))
    if np.any(fitted._bin_mapper.is_categorical_) or getattr(fitted, "_preprocessor", None) is not None:
        raise ValueError("it has categorical features, which members do not have")
    for step in fitted._predictors:
        _check_length("_predictors", step, sizes.outputs)
        for predictor in step:
            _check_type(predictor, TreePredictor)
            nodes, inner_N = predictor.nodes, predictor.nodes["is_leaf"] == 0
            if nodes["is_categorical"].any():
                raise ValueError("a tree splits on categorical features, which members do not have")
            _check_arrays(predictor, "u", raw_left_cat_bitsets=(0, 8))
            _check_nodes(inner_N, nodes["left"], nodes["right"], nodes["feature_idx"], sizes.features)


def _check_neighbours(fitted: Any, made: Any, sizes: Sizes) -> None:
    """Fit the rows again, which only stores them: everything else must follow from them."""
    labels_N, rows = fitted._y, fitted._fit_X
    classes_C = getattr(fitted, "classes_", None)
    if made.n_neighbors > max(len(rows), MAX_ABSENT_NEIGHBOURS):
        raise ValueError(f"it has {len(rows)} rows, fewer than n_neighbors: {made.n_neighbors}")
    inside = (
        rows.shape == (len(labels_N), sizes.features)
        and rows.dtype == np.float32
        and labels_N.shape == (len(rows),)
        and labels_N.dtype.kind == ("f" if classes_C is None else "i")
    )
    if not inside or (classes_C is not None and (labels_N.min() < 0 or labels_N.max() >= len(classes_C))):
        raise ValueError("its rows and labels or targets do not fit together")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.fit(rows, labels_N if classes_C is None else classes_C[labels_N])
    for key, wanted in vars(made).items():
        found = vars(fitted).get(key, wanted)
        if isinstance(wanted, np.ndarray):
            _check_array(key, found, wanted.shape, wanted.dtype.kind)
            same = np.array_equal(found, wanted) and found.dtype == wanted.dtype
        else:
            same = repr(found) == repr(wanted)
        if not same:
            raise ValueError(f"its {key} is {shorten_value(found)}, but its rows make it {shorten_value(wanted)}")


def _check_linear(fitted: Any, made: Any, sizes: Sizes) -> None:
    _check_arrays(fitted, coef_=(sizes.outputs, sizes.features))
    if np.ndim(fitted.intercept_):  # without intercepts it is the number 0
        _check_arrays(fitted, intercept_=(sizes.outputs,))


def _check_ridge(fitted: Any, made: Any, sizes: Sizes) -> None:
    _check_arrays(fitted, coef_=(sizes.features,))
    if np.ndim(fitted.intercept_) != 0:
        raise ValueError("it has several intercepts")


def _check_quadratic(fitted: Any, made: Any, sizes: Sizes) -> None:
    _check_arrays(fitted, means_=(sizes.classes, sizes.features), priors_=(sizes.classes,))
    for key in ("rotations_", "scalings_"):
        _check_length(key, getattr(fitted, key), sizes.classes)
    for axes, variances in zip(fitted.rotations_, fitted.scalings_, strict=True):
        axis_count = min(len(variances), sizes.features)
        _check_array("rotations_", axes, (sizes.features, axis_count))
        _check_array("scalings_", variances, (axis_count,))


def _check_network(fitted: Any, made: Any, sizes: Sizes) -> None:
    hidden = np.ravel(made.hidden_layer_sizes).tolist()
    widths = [sizes.features, *hidden, sizes.outputs]
    _check_values(fitted, n_layers_=len(widths), n_outputs_=sizes.outputs)
    _check_values(fitted, out_activation_="softmax" if sizes.outputs > 1 else "logistic")
    for key in ("coefs_", "intercepts_"):
        _check_length(key, getattr(fitted, key), len(widths) - 1)
    for layer, weights in enumerate(fitted.coefs_):
        _check_array("coefs_", weights, (widths[layer], widths[layer + 1]))
        _check_array("intercepts_", fitted.intercepts_[layer], (widths[layer + 1],))


def _check_support(fitted: Any, made: Any, sizes: Sizes) -> None:
    from sklearn.svm import SVR

    if fitted.kernel == "precomputed" or fitted._sparse is not False:  # libsvm would misread its numbers
        raise ValueError("its kind of support vector machine contradicts its parameters")
    numbers = isinstance(made, SVR)
    classes, vectors = 2 if numbers else sizes.classes, len(fitted.support_vectors_)  # 2: as libsvm counts
    if classes < 2:
        raise ValueError("a support vector machine for one class")
    pairs = classes * (classes - 1) // 2
    _check_arrays(fitted, "i", support_=(vectors,), _n_support=(classes,))
    _check_arrays(
        fitted, support_vectors_=(vectors, sizes.features), _dual_coef_=(classes - 1, vectors), _intercept_=(pairs,)
    )
    counts, sizes_of_sigmoids = fitted._n_support, {fitted._probA.size, fitted._probB.size}
    added = numbers or ((counts >= 0).all() and counts.sum() == vectors)  # a regressor's counts are not used
    if not added or not sizes_of_sigmoids <= {0, pairs}:
        raise ValueError("its support vectors do not add up")


def _check_lightgbm(fitted: Any, made: Any, sizes: Sizes) -> None:
    from lightgbm import Booster, LGBMRegressor

    booster = fitted._Booster
    _check_type(booster, Booster)
    if (booster.num_feature(), booster.num_model_per_iteration()) != (sizes.features, sizes.outputs):
        raise ValueError("its trees are for another number of features or classes than its own")
    if isinstance(made, LGBMRegressor):
        made._objective = "regression"
    else:
        made._objective, made._n_classes = ("multiclass" if sizes.outputs > 1 else "binary"), sizes.classes
        _check_values(fitted, _n_classes=sizes.classes)
    made.random_state = fitted.random_state
    wanted, found = (one._process_params(stage="predict") for one in (made, fitted))
    if repr(found) != repr(wanted):  # LightGBM gets them as one text
        raise ValueError(f"it asks LightGBM for {shorten_value(found)}, the settings for {shorten_value(wanted)}")


CHECKS: Mapping[str, Callable[[Any, Any, Sizes], None]] = {
    "lightgbm:LGBMClassifier": _check_lightgbm,
    "lightgbm:LGBMRegressor": _check_lightgbm,
    "sklearn.discriminant_analysis:LinearDiscriminantAnalysis": _check_linear,
    "sklearn.discriminant_analysis:QuadraticDiscriminantAnalysis": _check_quadratic,
    "sklearn.ensemble:AdaBoostClassifier": _check_boosted_trees,
    "sklearn.ensemble:ExtraTreesClassifier": _check_forest,
    "sklearn.ensemble:ExtraTreesRegressor": _check_forest,
    "sklearn.ensemble:HistGradientBoostingClassifier": _check_histogram,
    "sklearn.ensemble:RandomForestClassifier": _check_forest,
    "sklearn.ensemble:RandomForestRegressor": _check_forest,
    "sklearn.linear_model:LogisticRegression": _check_linear,
    "sklearn.linear_model:Ridge": _check_ridge,
    "sklearn.neighbors:KNeighborsClassifier": _check_neighbours,
    "sklearn.neighbors:KNeighborsRegressor": _check_neighbours,
    "sklearn.neural_network:MLPClassifier": _check_network,
    "sklearn.svm:LinearSVC": _check_linear,
    "sklearn.svm:SVC": _check_support,
    "sklearn.svm:SVR": _check_support,
}
"""Class -> a check of the sizes that its predictions use."""
