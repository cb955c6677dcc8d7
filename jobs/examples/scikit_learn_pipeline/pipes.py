"""A pipeline of one's own, as in scikit-learn's getting started: scale the columns, then classify."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler


def polynomial(C: float = 1.0, degree: int = 1) -> Pipeline:
    """Return a logistic regression on polynomials of scaled columns."""
    return make_pipeline(StandardScaler(), PolynomialFeatures(degree), LogisticRegression(C=C, max_iter=1000))
