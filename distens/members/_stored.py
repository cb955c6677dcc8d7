"""Fitted estimators written as bytes and read back safely, even if a hostile author wrote the bytes.

    zip ─► sizes ─► nodes, LightGBM's text ─► skops: objects of trusted types ─► settings' class, parameters ─► numbers

No code in the bytes is run, and compiled code can walk what is made of them. skops makes only objects of trusted types,
but checks no more: it calls a trusted type's constructor with any arguments in the file (LightGBM's opens any file).
Trees whose nodes lead in circles or out of the array hang or crash the process when they predict. A text that LightGBM
cannot read crashes it while it is read. So this module checks the numbers that scikit-learn and LightGBM use as indices
and do not check themselves.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from distens.errors import DAMAGE_ERRORS, StorageError, shorten_value
from distens.members import _families
from distens.members._boosted import check_text
from distens.members._families import Family
from distens.records import Integers, State

TYPES_OF_LOADERS: Mapping[str, str] = {
    "DefaultDictNode": "collections.defaultdict",
    "DictNode": "builtins.dict",
    "JsonNode": "builtins.str",
    "ListNode": "builtins.list",
    "LossNode": "sklearn._loss.*",
    "NdArrayNode": "numpy.*",
    "ObjectNode": "*",
    "RandomGeneratorNode": "numpy.random._generator.Generator",
    "RandomStateNode": "numpy.random.mtrand.RandomState",
    "TreeNode": "sklearn.tree._tree.Tree",
    "TupleNode": "builtins.tuple",
    "TypeNode": "*",
}
"""skops' loader -> a pattern of the types that it may make; no loader calls a constructor that the file chooses."""

SMALL_BYTES, MAX_UNPACK_FACTOR = 64 * 2**20, 100
"""A file may unpack to `SMALL_BYTES`, or to `MAX_UNPACK_FACTOR` its packed bytes if that is more. Real files grow
tenfold."""


def dump(fitted: Any, meta: Mapping[str, int]) -> State:
    """Return an estimator as the bytes of a skops file (a zip of JSON and arrays), compressed."""
    import skops.io

    content = skops.io.dumps(fitted, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    return State({"skops": np.frombuffer(content, dtype=np.uint8)}, meta)


def load_estimator(state: State, family: Family, options: Mapping[str, Any], outputs: str) -> tuple[Any, int]:
    """Rebuild the estimator from `dump`'s state; return it and its number of outputs (predicted numbers per row).

    Args:
        options: the member's options.
        outputs: the key of the number of outputs in the state's `meta`.

    Raises:
        StorageError: the file is damaged, does not match these settings, or holds a type that this version does not
            trust; nothing in it was run.
    """
    from skops.io.exceptions import UntrustedTypesFoundException

    where = f"estimator {family.name}: the stored state is"
    try:
        content, count = state.arrays["skops"].tobytes(), int(state.meta[outputs])
        return _read(content, family, options, count), count
    except UntrustedTypesFoundException as error:
        raise StorageError(f"{where} not trusted: {error}") from error
    except (*DAMAGE_ERRORS, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise StorageError(f"{where} damaged, or hostile: {error}") from error


def _read(content: bytes, family: Family, options: Mapping[str, Any], outputs: int) -> Any:
    import skops.io

    most = max(SMALL_BYTES, MAX_UNPACK_FACTOR * len(content))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        _check_size(sizes["schema.json"], most)
        nodes = list(_nodes(json.loads(archive.read("schema.json"))))
    _check_size(sum(sizes[node["file"]] for node in nodes if "file" in node), most)
    _check_node_ids(nodes)
    for node in nodes:
        _check_node(node, family)
    fitted = skops.io.loads(content, trusted=list(_families.TRUSTED))
    _check_type(fitted, _families.stored_class(family))
    if not family.numbers:
        _check_classes(fitted.classes_, outputs)
    elif outputs != 1:
        raise ValueError(f"it has {outputs} outputs, not 1")
    made = _families.make_estimator(family, options)
    for part in _unwrap_estimators(fitted, family):
        _check_type(part, type(made))
        _check_estimator(part, made, family)
    return fitted


def _unwrap_estimators(fitted: Any, family: Family) -> list[Any]:
    """Return the family's own estimators within a stored one, which may wrap them."""
    if family.calibrated:
        return [part.estimator for part in fitted.calibrated_classifiers_]
    if not family.scaled:
        return [fitted]
    from sklearn.preprocessing import StandardScaler

    _check_type(fitted.regressor, family.load())
    for scaler in (fitted.transformer, fitted.transformer_):
        _check_type(scaler, StandardScaler)
        _check_parameters(scaler, StandardScaler())
    for key in ("mean_", "scale_"):
        _check_shape(fitted.transformer_, key, (1,))
    if fitted._training_dim != 1:
        raise ValueError(f"its targets have {shorten_value(fitted._training_dim)} axes, not 1")
    return [fitted.regressor_]


def _check_size(found: int, most: int) -> None:
    if found > most:
        raise ValueError(f"it unpacks to {found:,} bytes, at most {most:,} are allowed for its size")


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of skops' schema."""
    left = [schema]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "__loader__" in value:
                yield value
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _check_node_ids(nodes: Sequence[dict[str, Any]]) -> None:
    """Refuse nodes that share an id and differ: skops makes the first one only, so a check of another would be void."""
    first: dict[Any, dict[str, Any]] = {}
    for node in nodes:
        other = first.setdefault(node["__id__"], node) if "__id__" in node else node
        if other is not node and _drop_ids(other) != _drop_ids(node):
            raise ValueError(f"two different parts have the id {shorten_value(node['__id__'])}")


def _drop_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_ids(inner) for key, inner in value.items() if key != "__id__"}
    return list(map(_drop_ids, value)) if isinstance(value, list) else value


def _check_node(node: Mapping[str, Any], family: Family) -> None:
    loader, kind = node["__loader__"], f"{node['__module__']}.{node['__class__']}"
    if loader not in TYPES_OF_LOADERS or not fnmatchcase(kind, TYPES_OF_LOADERS[loader]):
        raise ValueError(f"a part of the kind {shorten_value(loader)} is not allowed: {kind}")
    if kind == "lightgbm.basic.Booster":
        told = node["content"]["content"]
        text = told.get("_handle", {})
        found = (node["content"]["__loader__"], text.get("__loader__"))
        if found != ("DictNode", "JsonNode") or "handle" in told:
            raise ValueError("LightGBM's text is missing, or in another place than LightGBM's own")
        check_text(json.loads(text["content"]), family.numbers)
    if loader == "TreeNode":
        arguments = node["__reduce__"]["args"]
        outputs = arguments["content"][2]
        if (arguments["__loader__"], outputs["__loader__"], outputs["content"]) != ("TupleNode", "JsonNode", "1"):
            raise ValueError("a tree has not exactly one output")


def _check_type(found: Any, wanted: type) -> None:
    if type(found) is not wanted:
        raise ValueError(f"it is a {type(found).__name__}, not a {wanted.__name__}")


def _check_classes(found: Any, classes: int) -> None:
    labels_C = np.asarray(found)
    inside = labels_C.ndim == 1 and labels_C.dtype.kind in "iu" and len(labels_C)
    if not inside or labels_C[0] < 0 or labels_C[-1] >= classes or (np.diff(labels_C) <= 0).any():
        raise ValueError(f"its classes are {shorten_value(labels_C.tolist())}, not some of {classes} in order")


def _check_shape(fitted: Any, key: str, shape: tuple[int, ...]) -> None:
    if getattr(fitted, key).shape != shape:
        raise ValueError(f"its {key} is of shape {getattr(fitted, key).shape}, not {shape}")


def _check_estimator(fitted: Any, made: Any, family: Family) -> None:
    """Check an estimator's parameters against one made from the settings, and the numbers that compiled code uses."""
    _check_parameters(fitted, made)
    if family.path in CHECKS:
        CHECKS[family.path](fitted, int(fitted.n_features_in_))


def _check_parameters(fitted: Any, made: Any) -> None:
    wanted = made.get_params(deep=False)
    found = [(key, getattr(fitted, key, value)) for key, value in wanted.items()]
    for key, value in [*found, *getattr(fitted, "_other_params", {}).items()]:  # LightGBM prefers these
        if key != "random_state" and repr(value) != repr(wanted.get(key)):
            raise ValueError(
                f"its {key} is {shorten_value(value)}, expected {shorten_value(wanted.get(key))} by the settings"
            )


def _learns_numbers(fitted: Any) -> bool:
    from sklearn.base import RegressorMixin

    return isinstance(fitted, RegressorMixin)


def _check_nodes(inner_N: Any, left_N: Integers, right_N: Integers, feature_N: Integers, features: int) -> None:
    """Refuse a tree that cannot be walked; in every tree that was grown, a child comes after its parent."""
    places = np.flatnonzero(inner_N)
    sound = len(inner_N) > 0 and all(
        (child_N[places] > places).all() and (child_N[places] < len(inner_N)).all() for child_N in (left_N, right_N)
    )
    if not (sound and (feature_N[places] >= 0).all() and (feature_N[places] < features).all()):
        raise ValueError("a tree leads in circles, out of itself, or to missing features")


def _check_forest(fitted: Any, features: int) -> None:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor
    from sklearn.tree._tree import Tree

    numbers = _learns_numbers(fitted)
    if numbers and fitted.n_outputs_ != 1:
        raise ValueError(f"it has {shorten_value(fitted.n_outputs_)} outputs, not 1")
    kinds = (DecisionTreeRegressor, ExtraTreeRegressor) if numbers else (DecisionTreeClassifier, ExtraTreeClassifier)
    for part in fitted.estimators_:
        if type(part) not in kinds or type(part.tree_) is not Tree:
            raise ValueError(f"a {type(part).__name__} among its trees")
        tree = part.tree_
        _check_nodes(tree.children_left != -1, tree.children_left, tree.children_right, tree.feature, features)


def _check_histogram(fitted: Any, features: int) -> None:
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

    if np.any(fitted._bin_mapper.is_categorical_) or getattr(fitted, "_preprocessor", None) is not None:
        raise ValueError("it has categorical features, which members do not have")
    for predictor in (predictor for step in fitted._predictors for predictor in step):
        _check_type(predictor, TreePredictor)
        nodes, inner_N = predictor.nodes, predictor.nodes["is_leaf"] == 0
        if nodes["is_categorical"][inner_N].any():
            raise ValueError("a tree splits on categorical features, which members do not have")
        _check_nodes(inner_N, nodes["left"], nodes["right"], nodes["feature_idx"], features)


def _check_neighbours(fitted: Any, features: int) -> None:
    labels_N, rows = fitted._y, fitted._fit_X
    inside = labels_N.ndim == 1 and labels_N.dtype.kind == "i" and rows.shape == (len(labels_N), features)
    if not inside or labels_N.min() < 0 or labels_N.max() >= len(fitted.classes_):
        raise ValueError("its rows and labels do not fit together")


def _check_targets(fitted: Any, features: int) -> None:
    targets_N = fitted._y
    if targets_N.ndim != 1 or targets_N.dtype.kind != "f" or fitted._fit_X.shape != (len(targets_N), features):
        raise ValueError("its rows and targets do not fit together")


def _check_linear(fitted: Any, features: int) -> None:
    _check_shape(fitted, "coef_", (features,))
    if np.ndim(fitted.intercept_) != 0:
        raise ValueError("it has several intercepts")


def _check_support(fitted: Any, features: int) -> None:
    if "_impl" in vars(fitted) or fitted.kernel == "precomputed":  # libsvm would misread its numbers
        raise ValueError("its kind of support vector machine contradicts its parameters")
    numbers = _learns_numbers(fitted)
    classes, vectors = 2 if numbers else len(fitted.classes_), len(fitted.support_vectors_)  # 2: as libsvm counts
    pairs = classes * (classes - 1) // 2
    wanted = {
        "support_": (vectors,),
        "support_vectors_": (vectors, features),
        "_n_support": (classes,),
        "_dual_coef_": (classes - 1, vectors),
        "_intercept_": (pairs,),
    }
    for key, shape in wanted.items():
        _check_shape(fitted, key, shape)
    counts = fitted._n_support
    added = numbers or ((counts >= 0).all() and counts.sum() == vectors)  # a regressor's counts are not used
    if not added or not {fitted._probA.size, fitted._probB.size} <= {0, pairs}:
        raise ValueError("its support vectors do not add up")


def _check_lightgbm(fitted: Any, features: int) -> None:
    from lightgbm import Booster

    booster = fitted._Booster
    _check_type(booster, Booster)
    classes = 1 if _learns_numbers(fitted) else len(fitted.classes_)
    outputs = classes if classes > 2 else 1
    if (booster.num_feature(), booster.num_model_per_iteration()) != (features, outputs):
        raise ValueError("its trees are for another number of features or classes than its own")


CHECKS: Mapping[str, Callable[[Any, int], None]] = {
    "lightgbm:LGBMClassifier": _check_lightgbm,
    "lightgbm:LGBMRegressor": _check_lightgbm,
    "sklearn.ensemble:AdaBoostClassifier": _check_forest,
    "sklearn.ensemble:ExtraTreesClassifier": _check_forest,
    "sklearn.ensemble:ExtraTreesRegressor": _check_forest,
    "sklearn.ensemble:HistGradientBoostingClassifier": _check_histogram,
    "sklearn.ensemble:RandomForestClassifier": _check_forest,
    "sklearn.ensemble:RandomForestRegressor": _check_forest,
    "sklearn.linear_model:Ridge": _check_linear,
    "sklearn.neighbors:KNeighborsClassifier": _check_neighbours,
    "sklearn.neighbors:KNeighborsRegressor": _check_targets,
    "sklearn.svm:SVC": _check_support,
    "sklearn.svm:SVR": _check_support,
}
"""Class -> a check of the numbers that its compiled code uses as indices, and of a regressor's number of outputs. All
other classes compute with numpy, which checks its indices itself."""
