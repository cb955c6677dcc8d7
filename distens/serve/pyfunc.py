"""A bundle as an MLflow model, logged as code: MLflow copies this file and the bundle, nothing else."""

from typing import Any

import mlflow.models
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types.schema import AnyType, DataType, Schema

from distens.errors import ConfigError, did_you_mean
from distens.serve.predictor import load

OUTPUTS = ("predictions", "label")
"""The values of the parameter `output`."""


class BundleModel(PythonModel):
    """An MLflow model that predicts a DataFrame from raw rows: a column for each class, or for each number."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle among the model's artifacts; it may import modules, since MLflow models run code anyway."""
        self.predictor = load(context.artifacts["bundle"], imports=True)

    # The annotation DataFrame is the only one with which MLflow neither warns nor checks the input: the signature and
    # the bundle's own preprocessing check it. The input may also be an array, if the bundle was trained on arrays.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame | np.ndarray[Any, Any]:
        """Return predictions_NK as a DataFrame, or its rows' decisions.

        Args:
            params: a budget (`mean_members` or `tolerance`, see `Predictor`); and `output`: `predictions`, or `label`
                for the name of the most probable class, or the number, of every row.

        Raises:
            ConfigError: `output` is something else; or as in `Predictor.predict_proba`.
        """
        budget = dict(params or {})
        output = budget.pop("output", "predictions")
        if output not in OUTPUTS:
            raise ConfigError(f"params.output: found {output!r}. {did_you_mean(str(output), OUTPUTS)}")
        predictions_NK = self.predictor.predict_proba(model_input, **budget)
        if output == "label":
            return self.predictor.target.decisions(predictions_NK)
        return pd.DataFrame(predictions_NK, columns=pd.Index(self.predictor.classes))


def read_any_type_from_csv() -> None:
    """Let MLflow's server read columns of any type from `text/csv`, as text, where it would raise otherwise.

    In a signature, columns of whole numbers have this type: `double` refuses a DataFrame's integers, and `long` its
    gaps. The bundle's own preprocessing reads numbers from text.
    """
    known = Schema.pandas_types
    if known.__module__ != Schema.__module__:  # this file is run once for each model that is loaded
        return

    def pandas_types(self: Schema) -> list[np.dtype[Any]]:
        kinds = [spec.type for spec in self.inputs]
        if not all(isinstance(kind, AnyType | DataType) for kind in kinds):
            return known(self)
        return [kind.to_pandas() if isinstance(kind, DataType) else np.dtype(object) for kind in kinds]

    Schema.pandas_types = pandas_types


read_any_type_from_csv()
mlflow.models.set_model(BundleModel())
