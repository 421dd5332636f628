"""One file per data set. A task is found by its name here, never by import from the toolkit."""

TASKS = {name: name for name in ("digits", "cifar10", "imdb", "squad_v2")} | {
    name: f"own_{name}" for name in ("images", "lm", "qa", "text")
}
"""Name of a task -> its module. Those of ``own_`` train on data of the user's own."""
_BOTH = ("field", "plan")
TARGETS = {
    "digits": {"vit_micro": _BOTH, "resnetv2_micro": _BOTH},
    "cifar10": {"resnet18": _BOTH, "efficientnet_b0": _BOTH, "*": _BOTH},
    "imdb": {
        "bert-base-uncased": (*_BOTH, "plan_update"),
        "lstm-glove": _BOTH,
        "*": _BOTH,
    },
    "squad_v2": {
        "bert-large-uncased-whole-word-masking-finetuned-squad": _BOTH,
        "roberta-base": _BOTH,
        "*": _BOTH,
    },
    "images": {"*": ("field",)},
    "lm": {"*": ("field", "characters")},
    "qa": {"*": ("field",)},
    "text": {"*": ("field",)},
}
"""Task -> model -> its recipes, to be listed without importing what trains them; the model ``*``
stands for any other."""
