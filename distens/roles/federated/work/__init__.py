"""Work that tasks of a federation do on an actor: one file for each kind, whose name stands in the journal."""
