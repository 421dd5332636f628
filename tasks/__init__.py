"""One file per data set. A task is found by its name here, never by import from the toolkit."""

TASKS = ("digits", "cifar10", "imdb", "squad_v2")
