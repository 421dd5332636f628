"""The adaptive schedule: search for a base LR, warm-up and anneal, guard. Pure."""

from toolkit.schedules.adaptive.schedule import Adaptive, AdaptiveMemory

__all__ = ["Adaptive", "AdaptiveMemory"]
