"""How a transformers model is trained: whole or by adapters, with all of its activations or few.

Adapters are LoRA's (Hu et al. 2021), small matrices beside frozen layers, by ``peft``. They are put
into the model as it is, so that it stays of its class; its state has the frozen weights and theirs.
``merged`` makes of it what the class alone would be.
"""

from typing import TYPE_CHECKING

from torch import nn

from toolkit.errors import ConfigError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .recipes.text import TextRecipe


def as_trained(model: "PreTrainedModel", recipe: "TextRecipe") -> "PreTrainedModel":
    """The model as the recipe trains it: with adapters, with little kept of its activations.

    Raises:
        ConfigError: if this kind of model cannot do that.
    """
    return _keeping_little(_with_adapters(model, recipe), recipe)


def _keeping_little(model: "PreTrainedModel", recipe: "TextRecipe") -> "PreTrainedModel":
    """The model, which makes its activations once more for the backward pass if the recipe asks.

    Raises:
        ConfigError: if this kind of model cannot do that.
    """
    if recipe.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            kind = type(model).__name__
            raise ConfigError(f"recipe.gradient_checkpointing = True: {kind} does not have it")
        model.config.use_cache = False  # of generation, which cannot go with it
        name = "activation_checkpointing_enable"  # gradient_ in older releases
        name = name if hasattr(model, name) else "gradient_checkpointing_enable"
        getattr(model, name)({"use_reentrant": False})
    return model


def _with_adapters(model: "PreTrainedModel", recipe: "TextRecipe") -> "PreTrainedModel":
    """The model, of which little trains if the recipe asks: the adapters, and a new head.

    A head that predicts tokens is as old as the rest, and stays frozen.

    Raises:
        ConfigError: if peft does not know this kind of model.
    """
    if recipe.lora_rank is None:
        return model
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    if model.base_model is model:
        kind = type(model).__name__
        raise ConfigError(f"recipe.lora_rank = {recipe.lora_rank}: {kind} has no body below a head")
    body = f"{model.base_model_prefix}."
    layers = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and name.startswith(body)
    ]
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha or recipe.lora_rank,
        target_modules=layers if recipe.lora_layers == "all" else None,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in model.modules()),
    )
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        hint = "; --recipe.lora-layers all takes every linear one" * (recipe.lora_layers != "all")
        raise ConfigError(
            f"recipe.lora_layers = {recipe.lora_layers}: peft finds none in "
            f"{type(model).__name__}: {first_line(error)}{hint}"
        ) from error
    if model.get_output_embeddings() is None:
        for name, weight in model.named_parameters():
            if not name.startswith(body):
                weight.requires_grad_(True)
    return model


def merged(model: nn.Module) -> nn.Module:
    """The model with its adapters added to the weights beside them, in place; as it is without."""
    for path, layer in list(model.named_modules()):
        if hasattr(layer, "lora_A"):
            layer.merge(safe_merge=True)
            model.set_submodule(path, layer.get_base_layer())
    return model
