"""Work that tasks of any role do on an actor: one file for each kind, whose name stands in the journal."""
