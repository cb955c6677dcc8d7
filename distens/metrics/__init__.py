"""Metrics of a user's own, which search and selection minimise or maximise instead of a target's."""
