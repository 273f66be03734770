"""Recurrent net of Giraldi 2025, with attention on its outputs."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from ecgexp.models.layers import Count, Rate, check_heads, check_signals

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """GRU or LSTM, multi-head attention on its outputs, and a dense layer on the attention of the last step.

    (batch, leads, samples) to logits (batch, outputs). The samples are the steps, the leads the features of
    each. Attention is over the outputs of all steps. Only the last step's goes to the dense layer, so only this is
    computed. There is no shortcut around the attention, as in the authors' code.

    Parameters
    ----------
    leads, samples : int
        Shape of one record. `samples` does not change the net.
    outputs : int
        Logits of a record.
    cell : {'gru', 'lstm'}
        Kind of the recurrent layers.
    hidden : int
        Units of each recurrent layer.
    layers : int
        Number of recurrent layers.
    dropout : float
        Share of outputs dropped between two layers; a net of one layer drops none.
    heads : int
        Heads of the attention, a divisor of `hidden`.
    attention_dropout : float
        Share of attention weights dropped.

    Raises
    ------
    UserError
        If `heads` does not divide `hidden`.

    References
    ----------
    Giraldi 2025, ConvBlocks vs. Recurrent Layers, https://github.com/vgiraldi99/MADS-ML-Heart, for the net and
    for what the paper leaves open (4 heads, the last step).

    Examples
    --------
    >>> import torch
    >>> net = Recurrent(leads=2, samples=256)
    >>> net(torch.zeros(3, 2, 256)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        leads: Count = 12,
        samples: Count = 1000,
        outputs: Count = 5,
        cell: Literal["gru", "lstm"] = "gru",
        hidden: Count = 64,
        layers: Count = 2,
        dropout: Rate = 0.2,
        heads: Count = 4,
        attention_dropout: Rate = 0.2,
    ) -> None:
        super().__init__()
        self.check_arguments(hidden, heads)
        self.leads, self.samples = leads, samples
        between = dropout if layers > 1 else 0.0
        self.recurrent = CELLS[cell](leads, hidden, layers, dropout=between, batch_first=True)
        self.attention = nn.MultiheadAttention(hidden, heads, dropout=attention_dropout, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    @staticmethod
    def check_arguments(hidden: int = 64, heads: int = 4, **_: Any) -> None:
        """Refuse hidden sizes that the heads do not divide."""
        check_heads(hidden, heads)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to logits (batch, outputs)."""
        check_signals(x, self.leads, self.samples)
        steps, _ = self.recurrent(x.transpose(1, 2))
        attended, _ = self.attention(steps[:, -1:], steps, steps, need_weights=False)
        return self.head(attended[:, 0])
