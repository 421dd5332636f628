"""A bidirectional LSTM over word vectors, for classification."""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class WordLstm(nn.Module):
    """Word vectors, bidirectional LSTM over packed sequences, linear classifier.

    Args:
        vectors: float32, shape (words, dimension).
        padding: the row of the padding.
        frozen: leave the vectors as they are.
        hidden: units of each direction.
        layers: stacked layers.
        dropout: between layers, and before and after them.
        pooling: ``last``: the last state of each direction; ``mean_max``: mean and maximum of all
            states over time.
        classes: logits.
    """

    def __init__(
        self,
        vectors: Tensor,
        *,
        padding: int,
        frozen: bool,
        hidden: int,
        layers: int,
        dropout: float,
        pooling: Literal["last", "mean_max"],
        classes: int,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(vectors, frozen, padding)
        self.lstm = nn.LSTM(
            vectors.shape[1],
            hidden,
            layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        self.pooling = pooling
        self.classifier = nn.Linear(hidden * (2 if pooling == "last" else 4), classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of shape (batch, classes); inputs int64 of shape (batch, words)."""
        words = self.dropout(self.embedding(input_ids))
        lengths = attention_mask.sum(1).cpu()
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        outputs, (last, _) = self.lstm(packed)
        if self.pooling == "last":
            pooled = torch.cat([last[-2], last[-1]], -1)
        else:
            pooled = _mean_and_max(pad_packed_sequence(outputs, batch_first=True)[0], lengths)
        return cast(Tensor, self.classifier(self.dropout(pooled)))


def _mean_and_max(states: Tensor, lengths: Tensor) -> Tensor:
    """Over time, from states (batch, words, units), zero after each length: (batch, 2 units)."""
    lengths = lengths.to(states.device)[:, None]
    inside = torch.arange(states.shape[1], device=states.device)[None] < lengths
    highest = states.masked_fill(~inside[..., None], -torch.inf).amax(1)
    return torch.cat([states.sum(1) / lengths, highest], -1)
