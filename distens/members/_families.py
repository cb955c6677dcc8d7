"""The families of `estimator`: which class, what is fixed, what is searched by default.

The default ranges are about those of auto-sklearn (Feurer et al. 2015) and VolcanoML (Li et al. 2021), narrowed so that
a member on 5,000 rows of 30 numbers trains within seconds on one thread.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distens.errors import Refused, did_you_mean
from distens.records import Floats, Integers

OURS = frozenset({"random_state", "n_jobs", "num_threads", "seed", "verbose", "verbosity", "warm_start", "probability"})
"""Arguments that a member decides itself: from its seed, its share of the machine, and because it is silent."""

FOLDS = 3
"""Folds in which a support vector machine's decisions are made for rows that it did not see."""

TRUSTED = (
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
"""All types, beyond those that skops trusts itself, that a stored estimator may hold."""


def _range(low: float, high: float, log: bool = False) -> dict[str, Any]:
    return {"low": low, "high": high, "log": True} if log else {"low": low, "high": high}


def _of(*choices: Any) -> dict[str, Any]:
    return {"choices": list(choices)}


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        path: `module:Class`.
        ranges: the default search space of its options.
        count: how many numbers a fitted one stores to predict; see the functions below.
        defaults: where they are not the library's.
        fixed: what no option may change.
        seeded, threaded: whether the class takes `random_state` and `n_jobs`.
        calibrated: its decisions have no probabilities; Platt scaling gives them some.
        extra: options that are not arguments of the class.
    """

    path: str
    ranges: Mapping[str, Any]
    count: Callable[[Any], int]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = True
    threaded: bool = False
    calibrated: bool = False
    extra: tuple[str, ...] = ()

    def load(self) -> type:
        """Return the class."""
        module, name = self.path.split(":")
        return getattr(importlib.import_module(module), name)

    def refusals(self) -> tuple[type[Exception], ...]:
        """Return the library's own errors for what it cannot do; scikit-learn has none beside ValueError."""
        if not self.path.startswith("lightgbm"):
            return ()
        from lightgbm.basic import LightGBMError

        return (LightGBMError,)


def _nodes(estimator: Any) -> int:
    """Nodes of all trees."""
    return sum(tree.tree_.node_count for tree in np.ravel(estimator.estimators_))


def _histogram_nodes(estimator: Any) -> int:
    """Nodes of all trees."""
    return sum(len(tree.nodes) for step in estimator._predictors for tree in step)


def _lightgbm_nodes(estimator: Any) -> int:
    """Nodes of all trees: a tree of L leaves has L - 1 inner nodes."""
    lines = estimator.booster_.model_to_string().splitlines()
    return sum(2 * int(line.partition("=")[2]) - 1 for line in lines if line.startswith("num_leaves="))


def _stored_rows(estimator: Any) -> int:
    """Numbers in the stored rows."""
    return estimator._fit_X.size


def _linear(estimator: Any) -> int:
    """Coefficients and intercepts."""
    return estimator.coef_.size + np.size(estimator.intercept_)


def _quadratic(estimator: Any) -> int:
    """Means, axes and variances of every class."""
    return estimator.means_.size + sum(np.size(a) for a in [*estimator.rotations_, *estimator.scalings_])


def _support(estimator: Any) -> int:
    """Numbers in the support vectors, and their coefficients."""
    return estimator.support_vectors_.size + estimator.dual_coef_.size + estimator.intercept_.size


def _weights(estimator: Any) -> int:
    """Weights and biases."""
    return sum(a.size for a in [*estimator.coefs_, *estimator.intercepts_])


_FOREST = {
    "criterion": _of("gini", "entropy"),
    "max_features": _range(0.1, 0.8),
    "min_samples_split": _range(2, 20),
    "min_samples_leaf": _range(1, 20),
    "bootstrap": _of(True, False),
}

FAMILIES: Mapping[str, Family] = {
    "ada_boost": Family(
        "sklearn.ensemble:AdaBoostClassifier",
        {"n_estimators": _range(20, 100), "learning_rate": _range(0.01, 2.0, log=True), "max_depth": _range(1, 6)},
        _nodes,
        extra=("max_depth",),  # of its trees; the class takes a tree as its argument `estimator`
    ),
    "extra_trees": Family("sklearn.ensemble:ExtraTreesClassifier", _FOREST, _nodes, threaded=True),
    "histogram_boosting": Family(
        "sklearn.ensemble:HistGradientBoostingClassifier",
        {
            "max_iter": _range(30, 200, log=True),
            "learning_rate": _range(0.01, 0.5, log=True),
            "max_leaf_nodes": _range(4, 64, log=True),
            "min_samples_leaf": _range(2, 100, log=True),
            "l2_regularization": _range(1e-10, 1.0, log=True),
            "max_features": _range(0.3, 1.0),
        },
        _histogram_nodes,
        defaults={"early_stopping": False},
    ),
    "k_nearest_neighbours": Family(
        "sklearn.neighbors:KNeighborsClassifier",
        {"n_neighbors": _range(1, 50, log=True), "weights": _of("uniform", "distance"), "p": _of(1, 2)},
        _stored_rows,
        fixed={"algorithm": "brute"},  # rows are stored as they are, without a tree of them
        seeded=False,
        threaded=True,
    ),
    "lda": Family(
        "sklearn.discriminant_analysis:LinearDiscriminantAnalysis",
        _of(
            {"solver": "svd", "tol": _range(1e-5, 1e-1, log=True)},
            {"solver": "lsqr", "shrinkage": "auto"},
            {"solver": "lsqr", "shrinkage": _range(0.0, 1.0)},
        ),
        _linear,
        seeded=False,
    ),
    "lightgbm": Family(
        "lightgbm:LGBMClassifier",
        {
            "n_estimators": _range(30, 200, log=True),
            "learning_rate": _range(0.01, 0.5, log=True),
            "num_leaves": _range(4, 64, log=True),
            "min_child_samples": _range(2, 100, log=True),
            "subsample": _range(0.5, 1.0),
            "colsample_bytree": _range(0.3, 1.0),
            "reg_lambda": _range(1e-8, 10.0, log=True),
        },
        _lightgbm_nodes,
        defaults={"subsample_freq": 1},  # without it `subsample` has no effect
        fixed={"verbosity": -1, "deterministic": True, "force_row_wise": True, "objective": None},
        threaded=True,
        extra=("max_bin", "extra_trees", "path_smooth"),
    ),
    "linear_svm": Family(
        "sklearn.svm:LinearSVC",
        {"C": _range(0.01, 10.0, log=True), "class_weight": _of(None, "balanced")},
        _linear,
        calibrated=True,
    ),
    "logistic_regression": Family(
        "sklearn.linear_model:LogisticRegression",
        {"C": _range(1e-3, 1e3, log=True), "class_weight": _of(None, "balanced")},
        _linear,
        defaults={"max_iter": 1000},
    ),
    "mlp": Family(
        "sklearn.neural_network:MLPClassifier",
        {
            "hidden_layer_sizes": _of([32], [128], [64, 64], [128, 128]),
            "activation": _of("relu", "tanh"),
            "alpha": _range(1e-7, 1e-1, log=True),
            "learning_rate_init": _range(1e-4, 1e-1, log=True),
        },
        _weights,
        defaults={"max_iter": 50},
    ),
    "qda": Family(
        "sklearn.discriminant_analysis:QuadraticDiscriminantAnalysis",
        {"reg_param": _range(0.0, 1.0)},
        _quadratic,
        seeded=False,
    ),
    "random_forest": Family("sklearn.ensemble:RandomForestClassifier", _FOREST, _nodes, threaded=True),
    "svm": Family(
        "sklearn.svm:SVC",
        _of(
            {"kernel": "rbf", "C": _range(0.03, 100.0, log=True), "gamma": _range(1e-4, 1.0, log=True)},
            {
                "kernel": "poly",
                "C": _range(0.03, 100.0, log=True),
                "degree": _range(2, 4),
                "coef0": _range(0.0, 1.0),
            },
        ),
        _support,
        defaults={"max_iter": 20_000},  # a hopeless C or gamma would take minutes
        calibrated=True,
    ),
}


def make(name: str, options: Mapping[str, Any], seed: int = 0, threads: int = 1) -> Any:
    """Return an unfitted estimator.

    Raises:
        ValueError: an unknown family or option, an option that is not the user's, or a value out of range as far as
            the library says so before fitting.
    """
    if name not in FAMILIES:
        raise ValueError(f"estimator: unknown {name!r}. {did_you_mean(name, FAMILIES)}")
    family = FAMILIES[name]
    cls = family.load()
    arguments = {p.name for p in inspect.signature(cls).parameters.values() if p.kind is not p.VAR_KEYWORD}
    allowed = (arguments | set(family.extra)) - OURS - set(family.fixed) - {"estimator"}
    for key in options:
        if key in OURS or key in family.fixed:
            raise ValueError(f"options.{key}: is not yours to set: the member decides it")
        if key not in allowed:
            raise ValueError(f"options.{key}: unknown option of {name!r}. {did_you_mean(key, allowed)}")
    values = {**family.defaults, **options, **family.fixed}
    if family.seeded:
        values["random_state"] = seed
    if family.threaded:
        values["n_jobs"] = threads
    if name == "ada_boost":
        values["estimator"] = _tree(values.pop("max_depth", 1))
    estimator = cls(**values)
    for checked in (estimator, getattr(estimator, "estimator", None)):
        if getattr(checked, "_parameter_constraints", None):
            checked._validate_params()  # pyright: ignore[reportOptionalMemberAccess]
    return estimator


def _tree(max_depth: int | None) -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_depth=max_depth)


def calibrated(estimator: Any, inputs: Floats, labels_N: Integers, rows_N: Integers, seed: int) -> Any:
    """Return Platt's probabilities over a fitted estimator (Platt 1999; one class against the others, normalised).

    The scale is fitted on decisions for rows outside the folds that made them. Copies of one row, as in a bootstrap,
    share a fold, or else the decisions would be about rows already seen.

    Args:
        rows_N: which row of the data each row is.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedGroupKFold

    for label in np.unique(labels_N):
        different = len(np.unique(rows_N[labels_N == label]))
        if different < FOLDS:
            raise Refused(
                f"needs {FOLDS} different rows of each class to calibrate, found {different} of class {label}"
            )
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(inputs, labels_N, rows_N)
    scaled: Any = CalibratedClassifierCV(estimator, method="sigmoid", cv=list(folds))
    scaled.set_params(ensemble=False)  # one estimator on all rows
    fitted = scaled.fit(inputs, labels_N)
    return fitted.set_params(cv=None)  # the folds need not be stored


def stored_class(name: str) -> type:
    """Return the class of a fitted estimator of this family."""
    if not FAMILIES[name].calibrated:
        return FAMILIES[name].load()
    from sklearn.calibration import CalibratedClassifierCV

    return CalibratedClassifierCV


def count(name: str, estimator: Any) -> int:
    """Return how many numbers (or tree nodes) a fitted estimator stores in order to predict."""
    family = FAMILIES[name]
    if not family.calibrated:
        return int(family.count(estimator))
    fitted = estimator.calibrated_classifiers_[0]
    return int(family.count(fitted.estimator)) + 2 * len(fitted.calibrators)
