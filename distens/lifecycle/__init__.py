"""The life of a run, whatever its role: session, ledger, progress, resuming, results, delivery."""
