"""Genuine bundles, and ways to change them as somebody would who wants to do harm: checksums are always put right."""

import hashlib
import io
import json
import os
import re
import resource
import signal
import struct
import zipfile
from pathlib import Path

import numpy as np
import skops.io
from safetensors.numpy import save
from sklearn.datasets import load_iris
from sklearn.tree._tree import Tree

from distens import registry
from distens.config.sections import DataSection
from distens.data.dataset import Examples
from distens.data.preprocessing import Preprocessing
from distens.errors import DistensError
from distens.members import _families
from distens.serve import bundle
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.training.context import Context

FIRST = "members/m0.safetensors"
DEEP = "[" * 100_000 + "]" * 100_000
NET = {"family": "net", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 1}

MAX_SECONDS, MAX_BYTES = 5.0, 2**30


def in_bounds(action):
    """Carry out an action in a process that may take 5 s, and 1 GiB more than this one.

    Returns the text of the package's error that it raised, or `done`.
    """
    read, write = os.pipe()
    process = os.fork()
    if not process:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + MAX_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
            action()
            answer = "done"
        except DistensError as error:
            answer = "no memory" if isinstance(error.__cause__, MemoryError) else str(error)
        except BaseException as error:
            answer = f"unexpected {error!r}"
        os.write(write, answer.encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        text = said.read().decode()
    _, status = os.waitpid(process, 0)
    assert status == 0, f"it ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return text


def estimator(name, **options):
    return {"family": "trees", "kind": "estimator", "estimator": name, "options": options}


def rows():
    return load_iris(as_frame=True).data


def make(folder, *settings):
    """Return the folder of a bundle of members that were trained on iris."""
    found = load_iris(as_frame=True)
    preprocessing = Preprocessing.fit(found.data, np.arange(150), DataSection(source="sklearn:iris"))
    inputs, labels_N = preprocessing.transform(found.data), found.target.to_numpy()
    store, members, probs_MNC = Store(str(folder)), [], []
    for i, one in enumerate(settings):
        member = registry.build_member(one)
        member.fit(Examples(inputs, labels_N, 3), Context(seed=i))
        address = store.write_state(f"m{i}.safetensors", member.state())
        members.append(bundle.BundleMember(f"m{i}", one, 1 / len(settings), address))
        probs_MNC.append(member.predict(inputs))
    combiner = registry.make_plugin("combine", "average", "combine")
    bundle.write_bundle(
        store,
        "bundle",
        name="iris",
        target=Classes(tuple(map(str, found.target_names))),
        preprocessing=preprocessing.to_json(),
        members=members,
        combine="average",
        combine_state=combiner.fit(np.stack(probs_MNC), labels_N, np.full(len(settings), 1 / len(settings))),
        temperature=1.5,
        metrics={"accuracy": 0.9},
    )
    return folder / "bundle"


def mark(folder, change):
    """Change what `bundle.json` says."""
    values = json.loads((folder / "bundle.json").read_text())
    change(values)
    (folder / "bundle.json").write_text(json.dumps(values))


def put(folder, *path, value):
    """Set one value of `bundle.json`."""

    def change(values):
        for step in path[:-1]:
            values = values[step]
        values[path[-1]] = value

    mark(folder, change)


def replace(folder, name, content):
    """Replace a file, size and checksum included."""
    (folder / name).write_bytes(content)
    put(folder, "files", name, value={"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)})


def header(text, body=b""):
    """Return a safetensors file with this header."""
    content = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(content)) + content + body


def state(arrays, meta):
    """Return a safetensors file of distens."""
    return save(arrays, metadata={"distens": meta if isinstance(meta, str) else json.dumps(meta)})


def read(folder, name=FIRST):
    found = Store(str(folder)).read_state(name)
    return dict(found.arrays), dict(found.meta)


# Stored estimators ---------------------------------------------------------------------------------------------------


def skops_bytes(folder):
    return read(folder)[0]["skops"].tobytes()


def put_skops(folder, content, meta=None):
    replace(folder, FIRST, state({"skops": np.frombuffer(content, np.uint8)}, meta or {"classes": 3}))


def refit(folder, change):
    """Change the stored estimator itself."""
    fitted = skops.io.loads(skops_bytes(folder), trusted=list(_families.TRUSTED))
    change(fitted)
    put_skops(folder, skops.io.dumps(fitted))


def rezip(folder, schema=None, files=()):
    """Change what the skops file says: its description, or the bytes of some files (by the end of their names)."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(skops_bytes(folder))) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename == "schema.json" and schema is not None:
                values = json.loads(content)
                content = json.dumps(schema(values) or values).encode()
            for end, other in dict(files).items():
                content = other if info.filename.endswith(end) else content
            new.writestr(info.filename, content)
    put_skops(folder, out.getvalue())


def part(module, name, loader, **more):
    """Add a part of some type to the stored estimator."""
    node = {"__module__": module, "__class__": name, "__loader__": loader, "__id__": -1, **more}
    return lambda schema: schema["content"]["content"].update(extra=node)


def parts(values):
    """Yield every mapping of a description."""
    left = [values]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield value
            left += value.values()
        elif isinstance(value, list):
            left += value


def many_times(folder, times):
    """Let a thousand parts be one file."""
    rezip(folder, files={".npy": npy(f"({2**17},)")[:-16] + bytes(2**20)})

    def schema(values):
        (name, *_) = [part["file"] for part in parts(values) if "file" in part]
        array = {"__module__": "numpy", "__class__": "ndarray", "__loader__": "NdArrayNode", "type": "numpy"}
        content = [{**array, "file": name, "__id__": -i - 1} for i in range(times)]
        part("builtins", "list", "ListNode", content=content)(values)

    rezip(folder, schema)


def json_node(value):
    return {"__module__": "builtins", "__class__": "str", "__loader__": "JsonNode", "content": json.dumps(value)}


def arguments(*values):
    content = [json_node(value) for value in values]
    return {"__module__": "builtins", "__class__": "tuple", "__loader__": "TupleNode", "content": content}


def retree(change):
    """Return what changes the nodes of a forest's first tree."""

    def forest(fitted):
        tree = np.ravel(fitted.estimators_)[0]
        values = tree.tree_.__getstate__()
        values["nodes"] = values["nodes"].copy()
        change(values["nodes"])
        tree.tree_ = Tree(tree.tree_.n_features, np.array([3], dtype=np.intp), 1)
        tree.tree_.__setstate__(values)

    return forest


def retext(folder, old, new, everywhere=False):
    """Change lines of every tree in LightGBM's text (or any line), and the sizes of the trees accordingly."""
    fitted = skops.io.loads(skops_bytes(folder), trusted=list(_families.TRUSTED))
    text = fitted.booster_.model_to_string()
    changed = re.sub(old, new, text)
    assert changed != text
    if not everywhere:
        trees = re.split(r"(?=Tree=\d)", changed.partition("end of trees")[0])[1:]
        changed = re.sub(r"tree_sizes=.*", f"tree_sizes={' '.join(str(len(tree)) for tree in trees)}", changed)

    def schema(values):
        for value in parts(values):
            if value.get("__loader__") == "JsonNode" and "tree_sizes" in str(value["content"]):
                value["content"] = json.dumps(changed)

    rezip(folder, schema)


def npy(shape, descr="'<f8'"):
    """Return an array's file that claims a shape, with two numbers in it."""
    claim = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    claim += b" " * (63 - (len(claim) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(claim)) + claim + bytes(16)


def bomb(name, mebibytes):
    """Return a zip of one file that unpacks to a thousand times its size."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as file:
        file.write(npy(f"({mebibytes * 2**17}, 1)")[:-16] if name.endswith(".npy") else b"[")
        for _ in range(mebibytes):
            file.write(bytes(2**20))
    return out.getvalue()
