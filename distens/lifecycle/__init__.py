"""What every run has, whatever its role: session, ledger, progress, resuming, results, delivery."""
