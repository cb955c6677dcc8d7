"""A bundle as an MLflow model, logged as code: MLflow copies this file and the bundle, nothing else."""

from typing import Any

import mlflow.models
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from distens.serve.predictor import load


class BundleModel(PythonModel):
    """An MLflow model that predicts a DataFrame from raw rows: a column for each class, or for each number."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle among the model's artifacts; it may import modules, since MLflow models run code anyway."""
        self.predictor = load(context.artifacts["bundle"], imports=True)

    # The annotation DataFrame is the only one with which MLflow neither warns nor checks the input: the signature and
    # the bundle's own preprocessing check it. The input may also be an array, if the bundle was trained on arrays.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return predictions_NK as a DataFrame; `params`: a budget (`mean_members` or `tolerance`, see `Predictor`)."""
        predictions_NK = self.predictor.predict_proba(model_input, **(params or {}))
        return pd.DataFrame(predictions_NK, columns=pd.Index(self.predictor.classes))


mlflow.models.set_model(BundleModel())
