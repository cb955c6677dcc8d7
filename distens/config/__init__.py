"""What a user may write: the config, its sections, and the plain values that they are made of."""
