"""The network of TorchEnsemble's first example."""

from torch import Tensor, nn
from torch.nn import functional


class MLP(nn.Module):
    """Two hidden layers."""

    def __init__(self, in_features: int, classes: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(in_features, 128)
        self.linear2 = nn.Linear(128, 128)
        self.linear3 = nn.Linear(128, classes)

    def forward(self, data: Tensor) -> Tensor:
        """Return logits (N, classes) of images (N, …)."""
        data = data.view(data.size(0), -1)
        output = functional.relu(self.linear1(data))
        output = functional.relu(self.linear2(output))
        return self.linear3(output)
