"""The families of `estimator` and `estimator_regressor`: each one's class, fixed arguments and default search ranges.

The default ranges resemble those of auto-sklearn (Feurer et al. 2015) and VolcanoML (Li et al. 2021), narrowed so that
a member on 5,000 rows of 30 numbers trains within seconds on one thread.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distens.errors import DistensError, Refused, did_you_mean
from distens.records import Floats, Integers
from distens.training.context import Context

ARGUMENTS_OF_MEMBER = frozenset(
    {"random_state", "n_jobs", "num_threads", "seed", "verbose", "verbosity", "warm_start", "probability"}
)
"""Arguments that the member sets itself: by its seed, by its share of the machine, or so that nothing is printed."""

CALIBRATION_FOLDS = 3
"""The number of folds by which a support vector machine decides on rows that it has not seen, for Platt's scaling."""

TRUSTED = (
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
"""The types that skops may make for a stored estimator beyond those that it trusts itself."""

_STORED_CLASSES = (
    *("AdaBoostClassifier", "CalibratedClassifierCV", "ExtraTreesClassifier", "ExtraTreesRegressor"),
    *("HistGradientBoostingClassifier", "KNeighborsClassifier", "KNeighborsRegressor", "LinearDiscriminantAnalysis"),
    *("LinearSVC", "LogisticRegression", "MLPClassifier", "QuadraticDiscriminantAnalysis", "RandomForestClassifier"),
    *("RandomForestRegressor", "Ridge", "SVC", "SVR", "TransformedTargetRegressor"),
    *("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor"),
    *("AdamOptimizer", "SGDOptimizer", "LabelBinarizer", "LabelEncoder", "StandardScaler", "TreePredictor"),
    *("HalfBinomialLoss", "HalfMultinomialLoss", "Interval", "LogitLink", "MultinomialLogit", "_BinMapper"),
    *("_CalibratedClassifier", "_SigmoidCalibration"),
)
STORED_TYPES = (
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
    *(f"sklearn.*.{name}" for name in _STORED_CLASSES),
)
"""Patterns of the types of all objects that a stored estimator consists of; skops trusts many more."""


def _range(low: float, high: float, log: bool = False) -> dict[str, Any]:
    return {"low": low, "high": high, "log": True} if log else {"low": low, "high": high}


def _make_choices(*choices: Any) -> dict[str, Any]:
    return {"choices": list(choices)}


@dataclass(frozen=True)
class Family:
    """A family of classifiers or of regressors.

    Attributes:
        name: its name in a config; a method has the same name as a classifier and as a regressor.
        path: `module:Class`.
        ranges: the default search space of its options.
        count: a function that counts the numbers which a fitted estimator stores to predict; see those below.
        defaults: default values that differ from the library's.
        fixed: arguments that no option may change.
        seeded, threaded: True if the class takes `random_state` or `n_jobs`, respectively.
        calibrated: True if the estimator gives no probabilities; Platt scaling then turns its decisions into some.
        scaled: True if its options are in units of the targets; it then learns targets of zero mean and unit variance.
        extra: options that are not named arguments of the class.
    """

    name: str
    path: str
    ranges: Mapping[str, Any]
    count: Callable[[Any], int]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = True
    threaded: bool = False
    calibrated: bool = False
    scaled: bool = False
    extra: tuple[str, ...] = ()

    def load(self) -> type:
        """Import and return the class."""
        module, name = self.path.split(":")
        return getattr(importlib.import_module(module), name)

    @property
    def numbers(self) -> bool:
        """Return True if the family learns numbers, False if it learns labels."""
        from sklearn.base import RegressorMixin

        return issubclass(self.load(), RegressorMixin)

    def refusals(self) -> tuple[type[Exception], ...]:
        """Return the library's own error types for what it refuses; scikit-learn only uses ValueError."""
        if not self.path.startswith("lightgbm"):
            return (ValueError,)
        from lightgbm.basic import LightGBMError

        return (ValueError, LightGBMError)

    def describe(self, error: Exception) -> str:
        """Return one of these errors in words."""
        return str(error)

    def arguments(self) -> set[str]:
        """Return the names that its options may have."""
        named = {p.name for p in inspect.signature(self.load()).parameters.values() if p.kind is not p.VAR_KEYWORD}
        return (named | set(self.extra)) - ARGUMENTS_OF_MEMBER - set(self.fixed) - {"estimator"}

    def make(self, options: Mapping[str, Any], seed: int = 0, threads: int = 1) -> Any:
        """Return an unfitted estimator (see `make_estimator`)."""
        return make_estimator(self, options, seed, threads)

    def fit(
        self,
        options: Mapping[str, Any],
        inputs: Floats,
        targets_N: Integers | Floats,
        rows_N: Integers,
        context: Context,
    ) -> Any:
        """Return a fitted estimator (see `fit_estimator`)."""
        return fit_estimator(self, options, inputs, targets_N, rows_N, context)

    def count_numbers(self, fitted: Any) -> int:
        """Return the number of values that a fitted estimator stores (see `count_numbers`)."""
        return count_numbers(self, fitted)


def _count_nodes(estimator: Any) -> int:
    """Return the number of nodes in all trees."""
    return sum(tree.tree_.node_count for tree in np.ravel(estimator.estimators_))


def _histogram_nodes(estimator: Any) -> int:
    """Return the number of nodes in all trees."""
    return sum(len(tree.nodes) for step in estimator._predictors for tree in step)


def _lightgbm_nodes(estimator: Any) -> int:
    """Return the number of nodes in all trees: a tree of L leaves has L - 1 inner nodes."""
    lines = estimator.booster_.model_to_string().splitlines()
    return sum(2 * int(line.partition("=")[2]) - 1 for line in lines if line.startswith("num_leaves="))


def _stored_rows(estimator: Any) -> int:
    """Return the number of values in the stored rows."""
    return estimator._fit_X.size


def _linear(estimator: Any) -> int:
    """Return the number of coefficients and intercepts."""
    return estimator.coef_.size + np.size(estimator.intercept_)


def _quadratic(estimator: Any) -> int:
    """Return the number of values in the means, axes and variances of every class."""
    return estimator.means_.size + sum(np.size(a) for a in [*estimator.rotations_, *estimator.scalings_])


def _support(estimator: Any) -> int:
    """Return the number of values in the support vectors, their coefficients and the intercepts."""
    return estimator.support_vectors_.size + estimator.dual_coef_.size + estimator.intercept_.size


def _weights(estimator: Any) -> int:
    """Return the number of weights and biases."""
    return sum(a.size for a in [*estimator.coefs_, *estimator.intercepts_])


_FOREST = {
    "criterion": _make_choices("gini", "entropy"),
    "max_features": _range(0.1, 0.8),
    "min_samples_split": _range(2, 20),
    "min_samples_leaf": _range(1, 20),
    "bootstrap": _make_choices(True, False),
}
_FOREST_OF_NUMBERS = {  # no `criterion`: others are for absolute errors, which take minutes, or for counts
    "max_features": _range(0.1, 1.0),
    **{key: _FOREST[key] for key in ("min_samples_split", "min_samples_leaf", "bootstrap")},
}


def _by_name(*families: Family) -> Mapping[str, Family]:
    return {family.name: family for family in families}


CLASSIFIERS = _by_name(
    Family(
        "ada_boost",
        "sklearn.ensemble:AdaBoostClassifier",
        {"n_estimators": _range(20, 100), "learning_rate": _range(0.01, 2.0, log=True), "max_depth": _range(1, 6)},
        _count_nodes,
        extra=("max_depth",),  # the depth of its trees; the class itself takes a tree as its argument `estimator`
    ),
    Family("extra_trees", "sklearn.ensemble:ExtraTreesClassifier", _FOREST, _count_nodes, threaded=True),
    Family(
        "histogram_boosting",
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
    Family(
        "k_nearest_neighbours",
        "sklearn.neighbors:KNeighborsClassifier",
        {
            "n_neighbors": _range(1, 50, log=True),
            "weights": _make_choices("uniform", "distance"),
            "p": _make_choices(1, 2),
        },
        _stored_rows,
        fixed={"algorithm": "brute"},  # the rows are stored as they are, not as a tree
        seeded=False,
        threaded=True,
    ),
    Family(
        "lda",
        "sklearn.discriminant_analysis:LinearDiscriminantAnalysis",
        _make_choices(
            {"solver": "svd", "tol": _range(1e-5, 1e-1, log=True)},
            {"solver": "lsqr", "shrinkage": "auto"},
            {"solver": "lsqr", "shrinkage": _range(0.0, 1.0)},
        ),
        _linear,
        seeded=False,
    ),
    Family(
        "lightgbm",
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
    Family(
        "linear_svm",
        "sklearn.svm:LinearSVC",
        {"C": _range(0.01, 10.0, log=True), "class_weight": _make_choices(None, "balanced")},
        _linear,
        calibrated=True,
    ),
    Family(
        "logistic_regression",
        "sklearn.linear_model:LogisticRegression",
        {"C": _range(1e-3, 1e3, log=True), "class_weight": _make_choices(None, "balanced")},
        _linear,
        defaults={"max_iter": 1000},
    ),
    Family(
        "mlp",
        "sklearn.neural_network:MLPClassifier",
        {
            "hidden_layer_sizes": _make_choices([32], [128], [64, 64], [128, 128]),
            "activation": _make_choices("relu", "tanh"),
            "alpha": _range(1e-7, 1e-1, log=True),
            "learning_rate_init": _range(1e-4, 1e-1, log=True),
        },
        _weights,
        defaults={"max_iter": 50},
    ),
    Family(
        "qda",
        "sklearn.discriminant_analysis:QuadraticDiscriminantAnalysis",
        {"reg_param": _range(0.0, 1.0)},
        _quadratic,
        seeded=False,
    ),
    Family("random_forest", "sklearn.ensemble:RandomForestClassifier", _FOREST, _count_nodes, threaded=True),
    Family(
        "svm",
        "sklearn.svm:SVC",
        _make_choices(
            {"kernel": "rbf", "C": _range(0.03, 100.0, log=True), "gamma": _range(1e-4, 1.0, log=True)},
            {
                "kernel": "poly",
                "C": _range(0.03, 100.0, log=True),
                "degree": _range(2, 4),
                "coef0": _range(0.0, 1.0),
            },
        ),
        _support,
        defaults={"max_iter": 20_000},  # some values of C or gamma would take minutes
        calibrated=True,
    ),
)
"""Name -> family of `estimator`."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "ada_boost": ("adaboost",),
    "extra_trees": ("extratrees", "extremely_randomized_trees"),
    "histogram_boosting": ("hist_gradient_boosting", "histgradientboosting"),
    "k_nearest_neighbours": ("knn", "k_neighbors", "k_nearest_neighbors"),
    "lda": ("linear_discriminant_analysis",),
    "lightgbm": ("lgbm",),
    "linear_svm": ("linear_svc",),
    "logistic_regression": ("logistic", "logreg"),
    "qda": ("quadratic_discriminant_analysis",),
    "random_forest": ("rf", "randomforest"),
    "svm": ("svc", "svr"),
}
"""Family -> other names that it is known by; the name of its class is one, too."""

LIBRARIES = {
    "xgboost": "xgboost:XGBClassifier",
    "xgb": "xgboost:XGBClassifier",
    "catboost": "catboost:CatBoostClassifier",
    "gradient_boosting": "sklearn.ensemble:GradientBoostingClassifier",
    "decision_tree": "sklearn.tree:DecisionTreeClassifier",
}
"""A name that is no family's -> the class that its user means, if it is to be a classifier."""

REGRESSORS = _by_name(
    replace(CLASSIFIERS["extra_trees"], path="sklearn.ensemble:ExtraTreesRegressor", ranges=_FOREST_OF_NUMBERS),
    replace(CLASSIFIERS["k_nearest_neighbours"], path="sklearn.neighbors:KNeighborsRegressor"),
    replace(CLASSIFIERS["lightgbm"], path="lightgbm:LGBMRegressor"),
    replace(CLASSIFIERS["random_forest"], path="sklearn.ensemble:RandomForestRegressor", ranges=_FOREST_OF_NUMBERS),
    Family("ridge", "sklearn.linear_model:Ridge", {"alpha": _range(1e-4, 1e4, log=True)}, _linear),
    Family(
        "svm",
        "sklearn.svm:SVR",
        _make_choices(
            {
                "kernel": "rbf",
                "C": _range(0.03, 100.0, log=True),
                "gamma": _range(1e-4, 1.0, log=True),
                "epsilon": _range(1e-3, 1.0, log=True),
            },
            {
                "kernel": "poly",
                "C": _range(0.03, 100.0, log=True),
                "degree": _range(2, 4),
                "coef0": _range(0.0, 1.0),
                "epsilon": _range(1e-3, 1.0, log=True),
            },
        ),
        _support,
        defaults={"max_iter": 20_000},  # as in the classifier
        seeded=False,
        scaled=True,
    ),
)
"""Name -> family of `estimator_regressor`."""


def find_family(families: Mapping[str, Family], name: str) -> Family:
    """Return the family with a name.

    Raises:
        ValueError: there is no such family.
    """
    for family in families.values():
        words = (family.name, family.path.partition(":")[2].lower(), *ALIASES.get(family.name, ()))
        if name.lower() in words:
            return family
    own = "or a class of a library or of your own, package.module:Class"
    if (meant := LIBRARIES.get(name.lower())) is not None:
        path = meant if families is CLASSIFIERS else meant.replace("Classifier", "Regressor")
        own = f"or, if its package is installed, `estimator: {path}`"
    raise ValueError(f"estimator: unknown {name!r}. {did_you_mean(name, families)}; {own}")


def make_estimator(family: Family, options: Mapping[str, Any], seed: int = 0, threads: int = 1) -> Any:
    """Return an unfitted estimator.

    Raises:
        ValueError: an option is unknown or not the user's to set, or a value is out of range (where the library checks
            that before fitting).
    """
    cls = family.load()
    allowed = family.arguments()
    for key in options:
        if key in ARGUMENTS_OF_MEMBER or key in family.fixed:
            raise ValueError(f"options.{key}: cannot be set: the member sets it")
        if key not in allowed:
            raise ValueError(f"options.{key}: unknown option of {family.name!r}. {did_you_mean(key, allowed)}")
    values = {**family.defaults, **options, **family.fixed}
    if family.seeded:
        values["random_state"] = seed
    if family.threaded:
        values["n_jobs"] = threads
    if family.name == "ada_boost":
        values["estimator"] = _tree(values.pop("max_depth", 1))
    estimator = cls(**values)
    for checked in (estimator, getattr(estimator, "estimator", None)):
        if getattr(checked, "_parameter_constraints", None):
            checked._validate_params()  # pyright: ignore[reportOptionalMemberAccess]
    return estimator


def _tree(max_depth: int | None) -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_depth=max_depth)


@contextmanager
def convert_library_errors(family: Family, options: Mapping[str, Any], inputs: Floats) -> Iterator[None]:
    """Turn the library's errors in the body into `Refused`, and suppress its warnings.

    Raises:
        Refused: the library cannot fit these options to these rows.
    """
    rows = f"on {inputs.shape[0]} rows of {inputs.shape[1]} numbers"
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except Refused as error:
        raise Refused(f"estimator {family.name} {rows}: {error}") from error
    except (DistensError, MemoryError):
        raise
    except family.refusals() as error:
        raise Refused(f"estimator {family.name} {dict(options)} {rows}: {family.describe(error)}") from error


def fit_estimator(
    family: Family,
    options: Mapping[str, Any],
    inputs: Floats,
    targets_N: Integers | Floats,
    rows_N: Integers,
    context: Context,
) -> Any:
    """Return a fitted estimator, which predicts on one thread.

    Args:
        rows_N: the number of each row in the data (in a bootstrap, some are equal).

    Raises:
        Refused: there are too few rows to calibrate. The library's own errors pass through, see
            `convert_library_errors`.
    """
    estimator = make_estimator(family, options, context.seed, context.threads)
    if family.calibrated:
        estimator = fit_calibrated(estimator, inputs, np.asarray(targets_N, dtype=np.int64), rows_N, context.seed)
    elif family.scaled:
        estimator = wrap_scaled(estimator).fit(inputs, targets_N)
    else:
        estimator.fit(inputs, targets_N)
    if family.threaded:  # several threads would sum a forest's trees in an arbitrary order
        estimator.set_params(n_jobs=1)
    return estimator


def fit_calibrated(estimator: Any, inputs: Floats, labels_N: Integers, rows_N: Integers, seed: int) -> Any:
    """Return a fitted estimator with Platt's probabilities (Platt 1999; one class against the others, normalised).

    Platt's scaling is fitted on decisions for rows that the deciding estimator has not seen, by folds. Copies of a row,
    as in a bootstrap, are all in the same fold; otherwise the decisions would be for rows already seen.

    Args:
        estimator: the unfitted estimator.
        rows_N: the number of each row in the data (in a bootstrap, some are equal).

    Raises:
        Refused: a class has fewer than `CALIBRATION_FOLDS` different rows.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedGroupKFold

    for label in np.unique(labels_N):
        different = len(np.unique(rows_N[labels_N == label]))
        if different < CALIBRATION_FOLDS:
            raise Refused(
                f"needs {CALIBRATION_FOLDS} different rows of each class to calibrate, found {different} "
                f"of class {label}"
            )
    folds = StratifiedGroupKFold(CALIBRATION_FOLDS, shuffle=True, random_state=seed).split(inputs, labels_N, rows_N)
    scaled: Any = CalibratedClassifierCV(estimator, method="sigmoid", cv=list(folds))
    scaled.set_params(ensemble=False)  # predict with one estimator that is fitted on all rows
    fitted = scaled.fit(inputs, labels_N)
    return fitted.set_params(cv=None)  # the folds need not be stored


def wrap_scaled(estimator: Any) -> Any:
    """Return an unfitted regressor that learns targets of zero mean and unit variance, and predicts in their units."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.preprocessing import StandardScaler

    return TransformedTargetRegressor(estimator, transformer=StandardScaler(), check_inverse=False)


def stored_class(family: Family) -> type:
    """Return the class of a fitted estimator of this family."""
    if family.calibrated:
        from sklearn.calibration import CalibratedClassifierCV

        return CalibratedClassifierCV
    if family.scaled:
        from sklearn.compose import TransformedTargetRegressor

        return TransformedTargetRegressor
    return family.load()


def count_numbers(family: Family, estimator: Any) -> int:
    """Return the number of values (or tree nodes) that a fitted estimator stores in order to predict."""
    if family.calibrated:
        fitted = estimator.calibrated_classifiers_[0]
        return int(family.count(fitted.estimator)) + 2 * len(fitted.calibrators)
    if family.scaled:
        return int(family.count(estimator.regressor_)) + 2
    return int(family.count(estimator))


def flatten_rows(inputs: Floats) -> Floats:
    """Return the inputs as (N, features), float32: each image becomes one row of numbers."""
    return np.asarray(inputs, dtype=np.float32).reshape(len(inputs), -1)
