"""A run's folder: files that are whole or not there, states and predictions, and the journal."""
