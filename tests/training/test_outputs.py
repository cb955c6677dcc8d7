"""Logits among a network's outputs: which tensor they are, and when nobody can know."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from distens.errors import Refused
from distens.training.outputs import check_outputs

LOGITS, HIDDEN = torch.zeros(5, 3), torch.zeros(5, 8)


class Slotted:
    __slots__ = ("logits",)

    def __init__(self):
        self.logits = LOGITS


@pytest.mark.parametrize(
    "found",
    [
        LOGITS,
        {"logits": LOGITS, "hidden": HIDDEN},
        {"logits": LOGITS, "same": LOGITS},  # a name decides
        OrderedDict(loss=None, logits=LOGITS),
        (HIDDEN, LOGITS),
        [LOGITS, torch.zeros(5), "text", None],
        {"scores": LOGITS, "hidden": HIDDEN, "attention": torch.zeros(5, 2, 3, 3)},
        namedtuple("Output", "logits other")(LOGITS, LOGITS),
        Slotted(),
    ],
    ids=lambda found: type(found).__name__,
)
def test_logits_are_found(found):
    assert check_outputs(nn.Identity(), found, 5, 3) is LOGITS


def test_any_number_of_classes():
    assert check_outputs(nn.Identity(), (LOGITS, torch.zeros(5)), 5) is LOGITS
    with pytest.raises(Refused, match=r"\(5 rows, any number of classes\), found tuple with entry 0 \(5, 3\), entry 1"):
        check_outputs(nn.Identity(), (LOGITS, HIDDEN), 5)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((LOGITS, LOGITS), r"found tuple with entry 0 \(5, 3\), entry 1 \(5, 3\); a torch.Tensor is wanted"),
        ({"logits": HIDDEN, "other": LOGITS}, r"found dict with 'logits' \(5, 8\), 'other' \(5, 3\); a torch.Tensor"),
        ((HIDDEN,), r"found tuple with entry 0 \(5, 8\); a torch.Tensor is wanted"),
        (HIDDEN, r"found \(5, 8\)$"),
        ({"logits": LOGITS.to_sparse()}, "a torch.Tensor is wanted"),
        (LOGITS.to(torch.complex64), r"found \(5, 3\) of complex64, strided"),
        (None, "found NoneType; a torch.Tensor is wanted"),
    ],
)
def test_what_could_be_several_things_or_none_is_refused(found, words):
    with pytest.raises(
        Refused, match=rf"^Identity: forward must return logits of shape \(5 rows, 3 classes\), .*{words}"
    ):
        check_outputs(nn.Identity(), found, 5, 3)
