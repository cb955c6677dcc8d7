"""The network: in a file of its own, so that a bundle can build it again."""

import torch.nn.functional as F
from torch import nn


class ConvNet(nn.Module):
    """The network of Ray Tune's tutorial, for images of 8 x 8."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, kernel_size=3)
        self.fc = nn.Linear(8 * 9, 10)

    def forward(self, x):
        """Return the logarithms of probabilities: logits, too."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = self.fc(x.flatten(1))
        return F.log_softmax(x, dim=1)
