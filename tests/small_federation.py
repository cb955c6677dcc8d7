"""A federation that takes a second: digits, six clients, four rounds, in this process and untracked."""

from distens.config.config import parse_config

CLIENT = {"kind": "client", "model": {"kind": "mlp", "hidden": [16]}, "epochs": 1, "batch_size": 16}
WITH_ROWS = {"source": "sklearn:digits", "splits": {"train": 0.6, "search": 0.1, "combine": 0.1, "test": 0.2}}


def config(folder, *, client=None, federated=None, **changes):
    values = {
        "name": "fed",
        "role": "federated",
        "storage": str(folder),
        "data": WITH_ROWS,
        "federated": {
            "clients": 6,
            "partition": {"kind": "dirichlet_classes", "alpha": 0.5},
            "rounds": 4,
            "per_round": 4,
            **(federated or {}),
        },
        "members": {"client": {**CLIENT, **(client or {})}},
        "runtime": "inline",
        "tracking": "off",
    }
    return parse_config({**values, **changes})
