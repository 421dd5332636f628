"""Building blocks for a task of your own, under one path in a checkout and in an installed package.

::

    from toolkit.blocks import ImageClassification, ImageSplit, timm_model

They are those of the shipped tasks, the same objects. ``examples/own_task.py`` is a task made of
them; ``toolkit/task.py`` says what a task has to have.

| images | |
|---|---|
| ``ImageClassification`` | a task but for its data, models and recipes: loss, accuracy, export |
| ``ClassificationRecipe`` | a recipe with label smoothing, of images or texts |
| ``ImageSplit`` | uint8 images and their labels in memory |
| ``VisionRecipe`` | a recipe with the kind of stem and the memory format |
| ``timm_model`` | a model of timm by its name, its weights from the hub or a folder |
| ``SmallResNet`` | a residual network for small images |
| ``crop_and_flip``, ``normalised`` | augmentation that (seed, epoch, id) determine; zero mean |
| ``save_for_timm`` | a trained model as a folder for ``timm.create_model`` |

| texts | |
|---|---|
| ``TextClassification`` | the loss and the predictions of a task with one label a text |
| ``TextRecipe`` | a recipe with length, layers and width of an encoder |
| ``encoder_of``, ``MeanPooled`` | a model of transformers by name or folder; a head on its mean |
| ``fitting_tokenizer``, ``Encoder``, ``encoded_split`` | its tokenizer; texts to token ids |
| ``TokenSplit``, ``Ragged`` | token ids of any length, padded by batch |
| ``logits_of`` | the logits of a batch |
| ``export_encoder`` | a trained model as a folder for ``from_pretrained`` |
"""

from typing import TYPE_CHECKING, Any

from toolkit.task import shipped

if TYPE_CHECKING:
    from tasks.recipes.classes import ClassificationRecipe
    from tasks.recipes.text import TextRecipe
    from tasks.recipes.vision import VisionRecipe
    from tasks.text import (
        MeanPooled,
        Ragged,
        TokenSplit,
        encoder_of,
        export_encoder,
        fitting_tokenizer,
    )
    from tasks.text_classes import (
        Encoder,
        TextClassification,
        encoded_split,
        logits_of,
    )
    from tasks.vision import (
        ImageClassification,
        ImageSplit,
        SmallResNet,
        crop_and_flip,
        normalised,
        save_for_timm,
        timm_model,
    )

_HOMES = {
    "ClassificationRecipe": "recipes.classes",
    "MeanPooled": "text",
    "Ragged": "text",
    "TextRecipe": "recipes.text",
    "TokenSplit": "text",
    "encoder_of": "text",
    "export_encoder": "text",
    "fitting_tokenizer": "text",
    "Encoder": "text_classes",
    "TextClassification": "text_classes",
    "encoded_split": "text_classes",
    "logits_of": "text_classes",
    "ImageClassification": "vision",
    "ImageSplit": "vision",
    "SmallResNet": "vision",
    "VisionRecipe": "recipes.vision",
    "crop_and_flip": "vision",
    "normalised": "vision",
    "save_for_timm": "vision",
    "timm_model": "vision",
}

__all__ = [
    "ClassificationRecipe",
    "Encoder",
    "ImageClassification",
    "ImageSplit",
    "MeanPooled",
    "Ragged",
    "SmallResNet",
    "TextClassification",
    "TextRecipe",
    "TokenSplit",
    "VisionRecipe",
    "crop_and_flip",
    "encoded_split",
    "encoder_of",
    "export_encoder",
    "fitting_tokenizer",
    "logits_of",
    "normalised",
    "save_for_timm",
    "timm_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit.blocks' has no attribute '{name}'")
    return getattr(shipped(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
