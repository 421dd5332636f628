"""A schedule that breaks the rule that only readings decide: its factor is another on each rank."""

import os
from dataclasses import dataclass

from toolkit.schedules import Constant


@dataclass(frozen=True)
class Disagree(Constant):
    def factor(self, memory, progress):
        return 1.0 + float(os.environ["RANK"]) / 2**52
