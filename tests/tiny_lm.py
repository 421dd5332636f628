"""A tiny Llama with random weights, and token lists of very different lengths to train it on."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

WORDS, LONGEST, PAD = 24, 12, 0


def model() -> Any:
    """One layer, the same weights each time."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "max_position_embeddings": LONGEST}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **size, **heads, pad_token_id=PAD))


def ragged(count: int) -> list[dict[str, torch.Tensor]]:
    """Padded tokens and labels; a few of them have most of the words."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.where(torch.rand(count, generator=draw) < 0.3, LONGEST, 3)
    tokens = torch.randint(2, WORDS, (count, LONGEST), generator=draw)
    kept = torch.arange(LONGEST) < lengths[:, None]
    inputs, labels = tokens.where(kept, PAD), tokens.where(kept, -100)
    rows = zip(inputs, labels, kept.long(), strict=True)
    return [{"input_ids": row, "labels": told, "attention_mask": mask} for row, told, mask in rows]


def loss_sums(net: Any, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """The loss over all tokens of these batches that are told, and how many they are: (2,)."""
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    with torch.no_grad():
        logits = net(input_ids=whole["input_ids"], attention_mask=whole["attention_mask"]).logits
    told, scores = whole["labels"][:, 1:], logits[:, :-1].transpose(1, 2)
    total = torch.nn.functional.cross_entropy(scores, told, reduction="sum")
    return torch.stack([total, (told != -100).sum()])
