"""distens: train many models side by side on Ray and turn them into one thing worth deploying."""

__version__ = "0.1.0"
