"""Fine-tune a backbone, lose its file, and predict all the same: a bundle holds all weights.

cd jobs/examples/fine_tuning && python fine_tune.py
"""

from pathlib import Path

import torch
from torch import nn

import distens

if __name__ == "__main__":
    torch.manual_seed(0)  # in place of a training on other data
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU()).state_dict(), "backbone.pt")
    result = distens.run(distens.load_config("run.yaml"), overwrite=True)
    Path("backbone.pt").unlink()
    predictor = distens.load(result.path, imports=True)
    print(result.rows["ensemble"]["accuracy"], predictor.predict(result.data().example_rows)[:5])
