"""Recurrent net with attention on its outputs, of Giraldi 2025."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from ecgexp.models.layers import Count, Rate, check_heads, check_signals

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """GRU or LSTM, multi-head attention on its outputs, and a dense layer on what the last step attends to.

    (batch, leads, samples) to logits (batch, outputs). The samples are the steps, the leads what comes in at
    each. Attention is over the outputs of all steps; that of the last step goes to the dense layer, so no other
    is computed, which makes no difference to it. There is no shortcut around the attention, as in the
    authors' code.

    Parameters
    ----------
    leads, samples : int
        Shape of one record. The net is the same whatever `samples` is.
    outputs : int
        Logits of a record.
    cell : {'gru', 'lstm'}
        Kind of the recurrent layers.
    hidden : int
        Units of each of them.
    layers : int
        How many.
    dropout : float
        Share of the outputs dropped between two of them; a net of one layer drops none.
    heads : int
        Of the attention; they divide `hidden`.
    attention_dropout : float
        Share of the attention's weights dropped.

    Raises
    ------
    UserError
        Where `heads` does not divide `hidden`.

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
