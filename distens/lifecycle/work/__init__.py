"""What tasks of any role do on an actor: one file a kind of work, whose name a journal has."""
