"""A user's own LightningDataModule as the source of a run: its parts become the splits, nothing of it is ignored."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import user_data
from lightning.pytorch import LightningDataModule

from distens.config.config import parse_config
from distens.config.sections import DataSection, SplitsSection, is_data_module
from distens.data import data_modules
from distens.data.load import has_same_rows, load_data
from distens.errors import ConfigError, DataError
from distens.storage.store import Store

SPLITS = {"train": 0.4, "search": 0.2, "combine": 0.2, "test": 0.2}
WITH_VALIDATION = {"train": "given", "search": 0.3, "combine": 0.3, "test": 0.4}
WHOLE = {"train": "given", "search": 0.5, "combine": 0.5, "test": "given"}


def section(name: str, splits=SPLITS, **changes) -> DataSection:
    return DataSection(source=f"user_data:{name}", splits=SplitsSection(**splits), **changes)


def numbers(loaded, split: str) -> list[int]:
    """The numbers that the rows of a split had."""
    scaling = loaded.preprocessing.encoding.scaling
    rows = loaded.dataset.inputs[split][:, 0] / scaling.scales_F[0] + scaling.means_F[0]
    return np.round(rows).astype(int).tolist()


# Parts ----------------------------------------------------------------------------------------------------------------


def test_parts_become_splits():
    """90, 60 and 30 rows, numbered from 0, 1000 and 2000: the validation part is divided in two."""
    loaded = load_data(section("Whole", WHOLE), seed=1)
    assert numbers(loaded, "train") == list(range(90))
    assert numbers(loaded, "test") == list(range(2000, 2030))
    search, combine = numbers(loaded, "search"), numbers(loaded, "combine")
    assert (len(search), len(combine), sorted(search + combine)) == (30, 30, list(range(1000, 1060)))
    for split in ("train", "search", "combine", "test"):
        assert [number % 3 for number in numbers(loaded, split)] == (
            np.array(loaded.dataset.classes, dtype=int)[loaded.dataset.targets[split]].tolist()
        )
    assert sorted(loaded.split_rows["search"].tolist() + loaded.split_rows["combine"].tolist()) == list(range(60))


def test_without_test_rows_the_validation_part_is_divided_in_three():
    loaded = load_data(section("WithValidation", WITH_VALIDATION), seed=1)
    assert numbers(loaded, "train") == list(range(90))
    parts = [numbers(loaded, split) for split in ("search", "combine", "test")]
    assert ([len(part) for part in parts], sorted(chain(*parts))) == ([18, 18, 24], list(range(1000, 1060)))
    assert loaded.example_rows[:, 0].tolist() == parts[2][:5]


def test_without_any_parts_the_rows_are_divided_as_those_of_any_source():
    loaded = load_data(section("Base"), seed=1)
    parts = [numbers(loaded, split) for split in ("train", "search", "combine", "test")]
    assert ([len(part) for part in parts], sorted(chain(*parts))) == ([36, 18, 18, 18], list(range(90)))


def test_equal_seeds_give_equal_splits_and_the_fingerprint_says_so():
    first, again, other = (load_data(section("Whole", WHOLE), seed) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_parts_by_chance_are_the_same_each_time_and_leave_the_user_s_chance_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again = (load_data(section("Divided", WITH_VALIDATION), seed=1) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert numbers(first, "train") != list(range(90))
    assert torch.equal(torch.get_rng_state(), before)


def test_scaling_is_fitted_on_train_alone():
    loaded = load_data(section("Whole", WHOLE), seed=1)
    np.testing.assert_allclose(loaded.preprocessing.encoding.scaling.means_F, [44.5, -44.5])


@pytest.mark.parametrize(
    ("name", "splits", "changes", "words"),
    [
        ("Whole", SPLITS, {}, "data.splits.test is 0.2, but the source has its own test part"),
        (
            "Whole",
            {**WHOLE, "train": 0.2, "search": 0.4, "combine": 0.4},
            {},
            "data.splits.train is 0.2, but the source",
        ),
        ("WithValidation", WHOLE, {}, "data.splits.test is `given`, but the source has no test part"),
        ("Base", WITH_VALIDATION, {}, "data.splits.train is `given`, but the source has no validation part"),
        ("Whole", WHOLE, {"rows": 30}, "data.rows is 30, which has no effect on a source with its own validation part"),
        ("Base", SPLITS, {"target": "x"}, "data.target has no effect on user_data:Base, which holds arrays"),
        ("OtherShape", WITH_VALIDATION, {}, r"training rows have shape \(2,\), val rows \(3,\)"),
    ],
)
def test_splits_that_contradict_the_parts_are_refused(name, splits, changes, words):
    with pytest.raises(DataError, match=words):
        load_data(section(name, splits, **changes), seed=1)


def test_given_parts_are_no_shares():
    with pytest.raises(ValueError, match=r"the shares must sum to 1, they sum to 0\.5"):
        SplitsSection(train="given", search=0.25, combine=0.25, test="given")


# Rows -----------------------------------------------------------------------------------------------------------------


def test_images_are_turned_from_torch_s_order_to_that_of_files():
    """The pixel of channel c, line i and column j of image n is n + c / 10 + i / 100 + j / 1000."""
    loaded = load_data(section("Images", {**WITH_VALIDATION}), seed=1)
    assert loaded.dataset.inputs["train"].shape == (40, 3, 5, 4)
    first = loaded.example_rows[0]
    assert first.shape == (5, 4, 3)
    np.testing.assert_allclose(first - first[0, 0, 0], _pixels(3), atol=1e-5)
    restored = loaded.dataset.inputs["test"][0] / loaded.preprocessing.encoding.scales_C[:, None, None]
    np.testing.assert_allclose(
        restored + loaded.preprocessing.encoding.means_C[:, None, None], first.transpose(2, 0, 1)
    )


def _pixels(channels: int) -> np.ndarray:
    line, column, channel = np.ogrid[:5, :4, :channels]
    return channel / 10 + line / 100 + column / 1000


def test_images_of_one_channel_lose_it_and_no_validation_rows_are_none():
    loaded = load_data(section("GreyImages"), seed=1)
    assert loaded.example_rows.shape[1:] == (5, 4)
    assert loaded.dataset.inputs["train"].shape[1:] == (1, 5, 4)


def test_an_own_collate_function_is_used():
    rows = data_modules.read_data_module("user_data:Collated", {})["x_train"]
    np.testing.assert_array_equal(rows[:3, 0], [0.0, 2.0, 4.0])


def test_numbers_are_targets_too():
    loaded = load_data(section("Regression", task="regression"), seed=1)
    assert [2 * target for target in loaded.dataset.targets["train"]] == numbers(loaded, "train")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Weighted", "train_dataloader: its WeightedRandomSampler has no effect"),
        ("Batched", "train_dataloader: its Own has no effect"),
        ("Several", "expected one torch.utils.data.DataLoader, found list; or save its rows as arrays"),
        ("Stream", "an IterableDataset has no numbered rows; or save its rows as arrays x_train"),
        ("Mapped", r"a batch must be \(inputs, targets\), found dict with image, label; or save"),
        ("Triples", r"a batch must be \(inputs, targets\), found 3 values"),
        ("Texts", "inputs must be tensors, found tuple"),
        ("Ragged", "reading its rows failed: RuntimeError: stack expects each tensor to be equal size"),
        ("Augmented", "its rows differ at each reading, .*augmentation belongs in the LightningModule"),
        ("Empty", "the dataset has no rows"),
        ("Failing", r"setup\('fit'\) failed: FileNotFoundError: no such folder: /data/mine"),
        ("NeedsFolder", "data.options: NeedsFolder needs folder"),
        ("NoLoader", "has no train_dataloader"),
        ("NoDataModule", "must be a LightningDataModule, found <class 'user_data.NoDataModule'>"),
    ],
)
def test_what_cannot_be_read_is_refused(name, words):
    with pytest.raises(DataError, match=f"user_data:{name}.*{words}"):
        load_data(section(name), seed=1)


def test_options_are_arguments_of_its_constructor(tmp_path):
    (tmp_path / "rows").touch()
    loaded = load_data(section("NeedsFolder", options={"folder": str(tmp_path)}), seed=1)
    assert len(loaded.dataset.targets["train"]) == 36
    with pytest.raises(DataError, match=r"user_data:NeedsFolder: data.options.foldr: unknown option of NeedsFolder"):
        load_data(section("NeedsFolder", options={"foldr": "x"}), seed=1)
    with pytest.raises(
        DataError, match=r"data.options has no effect on sklearn:iris, which holds no LightningDataModu"
    ):
        load_data(DataSection(source="sklearn:iris", options={"folder": "x"}), seed=1)


@pytest.mark.parametrize(
    ("source", "words"),
    [("user_data:Bse", "no class 'Bse'. Did you mean 'Base'"), ("nosuch.data:Mine", "importing 'nosuch.data' failed")],
)
def test_an_address_of_nothing_is_refused(source, words):
    with pytest.raises(ConfigError, match=words):
        load_data(DataSection(source=source), seed=1)


# The table ------------------------------------------------------------------------------------------------------------


def test_the_table_has_every_hook_of_a_data_module():
    """A hook that Lightning adds fails here, until it is decided what becomes of it; the rest are tools to be used."""
    tools = {"hparams", "hparams_initial", "save_hyperparameters", "remove_ignored_hparams", "name", "from_datasets"}
    tools |= {"load_from_checkpoint", *(f"CHECKPOINT_HYPER_PARAMS_{end}" for end in ("KEY", "NAME", "TYPE"))}
    hooks = {name for name in dir(LightningDataModule) if name[0] != "_"} - tools
    table = [*data_modules.HONOURED, *data_modules.UNUSED, *data_modules.NOT_ALLOWED]
    assert sorted(hooks) == sorted(table)


def test_hooks_are_called_in_lightning_s_order():
    load_data(section("Counted", WHOLE), seed=1)
    assert user_data.CALLED == [
        "prepare_data()",
        "setup(fit)",
        "train_dataloader()",
        "val_dataloader()",
        "teardown(fit)",
        "setup(test)",
        "test_dataloader()",
        "teardown(test)",
    ]
    assert {call.partition("(")[0] for call in user_data.CALLED} == set(data_modules.HONOURED)


@pytest.mark.parametrize("name", data_modules.NOT_ALLOWED)
def test_hooks_that_cannot_have_their_effect_are_refused(name):
    with pytest.raises(DataError, match=f"user_data:Has_{name} has {name}: no batch reaches it"):
        load_data(section(f"Has_{name}"), seed=1)


# Trust ----------------------------------------------------------------------------------------------------------------


def test_an_address_is_told_from_other_sources():
    assert all(map(is_data_module, ["lit:Dm", "my_lab.data:Digits"]))
    others = ["sklearn:digits", "s3://bucket/x.npz", "data/x.csv", "C:/x.csv", "lit:Dm.inner", "a b:C", "lit:", ":Dm"]
    assert not any(map(is_data_module, others))


def test_reading_a_config_imports_nothing_and_its_code_is_noted(tmp_path):
    code = (
        "import json, sys\n"
        "from distens.config.config import parse_config\n"
        "from distens.config.sources import hash_sources\n"
        "config = parse_config({'name': 'x', 'data': {'source': 'mine:Dm'}, 'members': {'a': {'kind': 'estimator'}}})\n"
        "values = config.model_dump(mode='json')\n"
        "before = 'mine' in sys.modules\n"
        "import mine\n"
        "print(json.dumps([before, list(hash_sources(values)), list(hash_sources({'source': 'sklearn:digits'}))]))\n"
    )
    (tmp_path / "mine.py").write_text("class Dm:\n    pass\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout) == [False, ["mine"], []]


def test_a_whole_run_on_a_data_module(tmp_path):
    import distens

    values = {
        "name": "own",
        "storage": str(tmp_path),
        "data": {"source": "user_data:Whole", "splits": WHOLE},
        "members": {"forest": {"kind": "estimator", "estimator": "random_forest", "options": {"n_estimators": 5}}},
        "search": {"kind": "random", "members": 2},
        "distill": None,
        "baselines": [],
        "runtime": "inline",
        "tracking": "off",
    }
    result = distens.run(parse_config(values))
    info = json.loads((Path(result.path) / "run.json").read_text())
    assert "user_data" in info["sources"]
    assert has_same_rows(parse_config(values).data, Store(result.path), info["fingerprint"])
    assert distens.resume(result.path).rows == result.rows
