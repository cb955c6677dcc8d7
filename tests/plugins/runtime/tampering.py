"""A runner in this process that changes what one client sends, as the client's own machine could."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np

from distens.merge.protocol import ClientUpdate
from distens.records import Report
from distens.runtime.inline import Inline

NUMBERS = {"nan": math.nan, "inf": math.inf, "huge": 10**12, "none": None}


@dataclass
class Tampering(Inline):
    """Attributes:
    client: whose updates or reports are changed.
    field: of the update, or the metric of the report, that is changed.
    value: its value as JSON, or the name of one in `NUMBERS`; `missing`: the metric is left out.
    """

    client: str = "c3"
    field: str = "loss"
    value: str = "nan"

    def run(self, packs):
        for answers in super().run(packs):
            yield [self.changed(answer) for answer in answers]

    def changed(self, answer):
        value = NUMBERS[self.value] if self.value in NUMBERS else json.loads(self.value)
        if isinstance(answer, ClientUpdate) and answer.client == self.client:
            if self.field == "weights_P":
                value = np.array(value)
            return replace(answer, **{self.field: tuple(value) if self.field == "histogram_C" else value})
        if isinstance(answer, Report) and answer.task_id == self.client and self.field in answer.metrics:
            metrics = {**answer.metrics, self.field: value}
            if value == "missing":
                del metrics[self.field]
            return replace(answer, metrics=metrics)
        return answer
