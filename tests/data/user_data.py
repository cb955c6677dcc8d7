"""LightningDataModules such as a user would bring, for the tests of sources."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from distens.data.data_modules import HONOURED, NOT_ALLOWED, UNUSED

CALLED: list[str] = []


def rows(count: int, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that hold their number, of three classes."""
    numbers = torch.arange(first, first + count)
    return torch.stack([numbers.float(), -numbers.float()], dim=1), numbers % 3


class Base(LightningDataModule):
    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size, self.parts = batch_size, {}

    def setup(self, stage: str) -> None:
        self.parts = {"train": rows(90), "val": rows(60, 1000), "test": rows(30, 2000)}

    def loader(self, part: str, **options: Any) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*self.parts[part]), batch_size=self.batch_size, **options)

    def train_dataloader(self) -> Any:
        return self.loader("train", shuffle=True)


class WithValidation(Base):
    def val_dataloader(self) -> Any:
        return self.loader("val")


class Whole(WithValidation):
    def test_dataloader(self) -> Any:
        return self.loader("test")


class Counted(Whole):
    def __init__(self) -> None:
        super().__init__()
        CALLED.clear()


def _counting(name: str, method: Any) -> Any:
    def counted(self: Any, *args: Any) -> Any:
        CALLED.append(f"{name}({', '.join(args)})")
        return method(self, *args)

    return counted


for _name in (*HONOURED, *UNUSED):
    setattr(Counted, _name, _counting(_name, getattr(Whole, _name)))


def _with_methods(name: str, base: type, methods: dict[str, Any]) -> type:
    return type(name, (base,), {"__module__": __name__, **methods})


globals().update({f"Has_{name}": _with_methods(f"Has_{name}", Base, {name: lambda self: None}) for name in NOT_ALLOWED})


class Images(Base):
    """Images as torchvision has them: (channels, height, width), and a label as a plain number; a part of a whole."""

    channels = 3

    def setup(self, stage: str) -> None:
        whole = PixelData(60, self.channels)
        self.train, self.val = random_split(whole, [40, 20], generator=torch.Generator().manual_seed(1))

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=8)

    def val_dataloader(self) -> Any:
        return [] if self.channels == 1 else DataLoader(self.val)


class GreyImages(Images):
    channels = 1


class PixelData(Dataset[Any]):
    def __init__(self, count: int, channels: int) -> None:
        self.count, self.channels = count, channels

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        image = number + torch.arange(self.channels)[:, None, None] / 10 + torch.arange(5)[None, :, None] / 100
        return image + torch.arange(4)[None, None, :] / 1000, number % 2


def _pairs(items: Any) -> Any:
    inputs, targets = zip(*items, strict=True)
    return 2 * torch.stack(inputs), torch.stack(targets)


class Collated(Base):
    def train_dataloader(self) -> Any:
        return self.loader("train", collate_fn=_pairs)


class Divided(Base):
    """Parts by chance."""

    def setup(self, stage: str) -> None:
        self.train, self.val = random_split(TensorDataset(*rows(150)), [90, 60])

    def train_dataloader(self) -> Any:
        return DataLoader(self.train)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val)


class Regression(Base):
    def setup(self, stage: str) -> None:
        inputs, _ = rows(90)
        self.parts = {"train": (inputs, inputs[:, :1] / 2)}


# What cannot be read --------------------------------------------------------------------------------------------------


class Weighted(Base):
    def train_dataloader(self) -> Any:
        return self.loader("train", sampler=WeightedRandomSampler([1.0] * 90, 90))


class Batched(Base):
    def train_dataloader(self) -> Any:
        class Own(BatchSampler):
            pass

        data = TensorDataset(*self.parts["train"])
        return DataLoader(data, batch_sampler=Own(SequentialSampler(data), 3, False))


class Several(Base):
    def train_dataloader(self) -> Any:
        return [self.loader("train"), self.loader("train")]


class Stream(Base):
    def train_dataloader(self) -> Any:
        class Endless(IterableDataset[Any]):
            def __iter__(self) -> Any:
                return iter([])

        return DataLoader(Endless())


class Mapped(Base):
    def train_dataloader(self) -> Any:
        return self.loader("train", collate_fn=_as_mapping)


def _as_mapping(items: Any) -> Any:
    inputs, targets = _pairs(items)
    return {"image": inputs, "label": targets}


class Triples(Base):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*self.parts["train"], self.parts["train"][1]))


class Texts(Base):
    def train_dataloader(self) -> Any:
        data: Any = [("a text", 1)] * 20
        return DataLoader(data)


class Ragged(Base):
    def train_dataloader(self) -> Any:
        data: Any = [(torch.zeros(1 + number % 2), 1) for number in range(20)]
        return DataLoader(data)


class Augmented(Base):
    def train_dataloader(self) -> Any:
        return DataLoader(Noisy(*self.parts["train"]))


class Noisy(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        inputs, target = super().__getitem__(index)
        return inputs + torch.rand(1), target


class Empty(Base):
    def setup(self, stage: str) -> None:
        self.parts = {"train": (torch.zeros((0, 2)), torch.zeros(0))}

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*self.parts["train"]))


class Failing(Base):
    def setup(self, stage: str) -> None:
        raise FileNotFoundError("no such folder: /data/mine")


class NeedsFolder(Base):
    def __init__(self, folder: str, batch_size: int = 2) -> None:
        super().__init__(batch_size)


class NoLoader(LightningDataModule):
    pass


class NoDataModule:
    pass


class OtherShape(WithValidation):
    def setup(self, stage: str) -> None:
        self.parts = {"train": rows(90), "val": (torch.zeros((60, 3)), torch.arange(60) % 3)}
