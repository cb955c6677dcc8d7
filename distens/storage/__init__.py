"""Storage of a run's folder: files that are whole or absent, states and predictions, and the journal."""
