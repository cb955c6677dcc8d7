"""The config that a user writes: its sections, and checks on the plain values in it."""
