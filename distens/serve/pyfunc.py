"""A bundle as an MLflow model, logged from this file's code: MLflow copies the file and the bundle, nothing else."""

from typing import Any

import mlflow.models
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from distens.serve.predictor import load


class BundleModel(PythonModel):
    """Raw rows to a DataFrame of probabilities, one column for each class."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle among the model's artifacts. Loading an MLflow model runs its code, so the bundle's too."""
        self.predictor = load(context.artifacts["bundle"], imports=True)

    # A DataFrame is the one hint that makes MLflow neither warn nor check: the signature and the bundle's own
    # preprocessing do. What comes may as well be an array, for a bundle that was made of arrays.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return probs_NC; `params` may hold a budget: `mean_members` or `tolerance`, see `Predictor`."""
        probs_NC = self.predictor.predict_proba(model_input, **(params or {}))
        return pd.DataFrame(probs_NC, columns=pd.Index(self.predictor.classes))


mlflow.models.set_model(BundleModel())
