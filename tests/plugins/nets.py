"""Networks as users write them."""

import torch
from torch import nn
from torch.nn import functional

FILE = "weights.pt"
TABLE = {"a": 1}


class Net(nn.Module):
    """The same as our `mlp` with one hidden layer, drawn in the same order."""

    def __init__(self, in_features, num_classes, width=16):
        super().__init__()
        self.hidden = nn.Linear(in_features, width)
        self.last = nn.Linear(width, num_classes)

    def forward(self, inputs):
        return self.last(functional.relu(self.hidden(inputs.flatten(1))))


def make(in_features, outputs, width=16):
    return Net(in_features, outputs, width)


class Images(nn.Module):
    def __init__(self, in_channels, classes):
        super().__init__()
        self.body = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.last = nn.LazyLinear(classes)

    def forward(self, inputs):
        return self.last(self.body(inputs).relu().flatten(1))


class Named(nn.Module):
    """Notes what it was given."""

    def __init__(self, input_shape, classes, in_features, num_classes, outputs, restoring, in_channels=7):
        super().__init__()
        self.given = (input_shape, classes, in_features, num_classes, outputs, restoring, in_channels)
        self.last = nn.Linear(in_features, classes)

    def forward(self, inputs):
        return self.last(inputs.flatten(1))


def number(outputs):
    return outputs


_ONLY = nn.Linear(30, 2)


class Shared(nn.Module):
    """A network whose head was made once, at import."""

    def __init__(self):
        super().__init__()
        self.head = _ONLY

    def forward(self, inputs):
        return self.head(inputs.flatten(1))


_CONSTANT = torch.full((30,), 2.0)


class SharedConstant(nn.Module):
    """A network of its own weights, with a constant that was made once, at import."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", _CONSTANT)
        self.head = nn.Linear(30, 2)

    def forward(self, inputs):
        return self.head(inputs.flatten(1) / self.scale)


# Networks that start from weights in a file -------------------------------------------------------------------------


class Tuned(Net):
    """The natural code: all weights from a file."""

    def __init__(self, in_features, num_classes, file=FILE):
        super().__init__(in_features, num_classes)
        self.load_state_dict(torch.load(file))


class Backbone(nn.Module):
    """Weights of a part, from an entry of a file, with other names; the head is new."""

    def __init__(self, in_features, num_classes, file=FILE):
        super().__init__()
        self.body, self.head = Net(in_features, 8), nn.Linear(8, num_classes)
        state = torch.load(file, map_location="cpu", weights_only=True)["model"]
        state = {name.removeprefix("module."): value for name, value in state.items() if "head" not in name}
        self.body.load_state_dict(state, strict=False)

    def forward(self, inputs):
        return self.head(self.body(inputs))


class Safe(Net):
    def __init__(self, in_features, num_classes, file="weights.safetensors"):
        from safetensors.torch import load_file

        super().__init__(in_features, num_classes)
        self.load_state_dict(load_file(file))


class Downloaded(Net):
    def __init__(self, in_features, num_classes, url=""):
        super().__init__(in_features, num_classes)
        self.load_state_dict(torch.hub.load_state_dict_from_url(url, progress=False))


class Asks(Net):
    """Reads in a way of its own, and asks whether it must."""

    def __init__(self, in_features, num_classes, restoring, file=FILE):
        super().__init__(in_features, num_classes)
        if not restoring:
            with open(file, "rb") as opened:
                self.load_state_dict(torch.load(opened))


class Opens(Net):
    """Reads in a way of its own, whether it must or not."""

    def __init__(self, in_features, num_classes, file=FILE):
        super().__init__(in_features, num_classes)
        with open(file, "rb") as opened:
            self.load_state_dict(torch.load(opened))


class Scaled(Net):
    """Keeps a number of the file beside its weights, where no bundle finds it."""

    def __init__(self, in_features, num_classes, file=FILE):
        super().__init__(in_features, num_classes)
        content = torch.load(file)
        self.scale = content.get("scale", 1.0)

    def forward(self, inputs):
        return super().forward(inputs) * self.scale


# Mistakes -----------------------------------------------------------------------------------------------------------


class Broken(Net):
    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        raise LookupError("no such preset")


class WrongShape(Net):
    def forward(self, inputs):
        return self.hidden(self.last(inputs))


class OneOutput(Net):
    def __init__(self, in_features, num_classes):
        super().__init__(in_features, 1)


class Flat(Net):
    def forward(self, inputs):
        return super().forward(inputs)[:, 0]


class Pair(Net):
    def forward(self, inputs):
        return inputs.flatten(1), inputs


class Soft(Net):
    def forward(self, inputs):
        return super().forward(inputs).softmax(1)


class Detached(Net):
    def forward(self, inputs):
        return super().forward(inputs).detach()


class Normalised(Net):
    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.normalise = nn.BatchNorm1d(in_features)

    def forward(self, inputs):
        return super().forward(self.normalise(inputs.flatten(1)))


class NeedsGpu(Net):
    def forward(self, inputs):
        if not inputs.is_cuda:
            raise RuntimeError("flash attention: expected a CUDA tensor")
        return super().forward(inputs)


# Outputs among other values -----------------------------------------------------------------------------------------


class Mapped(Net):
    def forward(self, inputs):
        return {"hidden": inputs.flatten(1), "logits": super().forward(inputs)}


class WithAttention(Net):
    def forward(self, inputs):
        return super().forward(inputs), inputs
