"""What a run is made of and made into: one folder a role."""
