"""What the tasks of a federation do on an actor: one file a kind of work, whose name a journal has."""
