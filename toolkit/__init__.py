"""Adaptive LR Toolkit: which learning-rate schedule should this training run use?

Importing the package imports nothing heavy; see ``toolkit.run`` and ``toolkit.loop`` for training
from Python, and ``toolkit.schedules`` for the schedules.
"""

__version__ = "0.1.0"
