"""A network that begins with weights of a file, as in torch's tutorial of transfer learning."""

import torch
from torch import nn


class FineTuned(nn.Module):
    """A backbone from a file, and a new head."""

    def __init__(self, num_classes, weights="backbone.pt"):
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.backbone.load_state_dict(torch.load(weights, weights_only=True))
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(self.backbone(x))
