"""The federated role: clients train on rows that stay with them; the server merges, or distils, what they learned.

plan ─► who has which rows ─┬─► rounds: draw clients ─► train ─► refuse what cannot be ─► merge ─► …  ─┬─► table
                            └─► one shot: every client once ─► merge · weigh · distil without rows ────┘
"""
