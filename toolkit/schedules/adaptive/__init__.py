"""The parts of the adaptive schedule: search, guard, detectors, and the schedule itself. Pure."""
