"""One file per data set. A task is found by its name here, never by import from the toolkit."""

TASKS = {name: name for name in ("digits", "cifar10", "imdb", "squad_v2")} | {
    name: f"own_{name}" for name in ("images", "lm", "qa", "text")
}
"""Name of a task -> its module. Those of ``own_`` train on data of the user's own."""
