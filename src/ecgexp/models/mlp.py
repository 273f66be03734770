"""Dense layers on the values of a record."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ecgexp.errors import UserError
from ecgexp.models.layers import (
    ACTIVATIONS,
    Activation,
    Count,
    Rate,
    ReLUDropout,
    flatten,
    initialize,
)


class MLP(nn.Module):
    """Dense layers, each with activation and dropout, and a dense layer of the outputs.

    Any record, (batch, channels, height, width), (batch, leads, samples) or (batch, features), to logits
    (batch, outputs). The values are flattened position by position, as Keras flattens channels-last arrays. Without
    a hidden layer it is logistic regression on the values.

    Parameters
    ----------
    values : int
        Values of one record: channels x height x width, leads x samples, or features.
    outputs : int
        Logits of a record.
    hidden : sequence of int
        Units of each hidden layer.
    activation : {'relu', 'sigmoid', 'tanh', 'gelu', 'leaky_relu'}
        After each hidden layer.
    dropout : float
        Share of activations dropped after each hidden layer.

    Notes
    -----
    One hidden layer of 4096 units on 28 x 28 x 3 values has 9,670,664 parameters. Initial weights are Keras': Glorot
    uniform, biases zero.

    References
    ----------
    Toffanetto 2024 chooses hidden units, activation, dropout and optimizer of this net by stages, on blood cells.

    Examples
    --------
    >>> import torch
    >>> net = MLP(values=3 * 8 * 8, outputs=4, hidden=[32])
    >>> net(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        values: Count = 2352,
        outputs: Count = 8,
        hidden: Sequence[Count] = (256,),
        activation: Activation = "relu",
        dropout: Rate = 0.0,
    ) -> None:
        super().__init__()
        self.values = values
        self.hidden = nn.Sequential()
        for units in hidden:
            self.hidden.append(initialize(nn.Linear(values, units), nn.init.xavier_uniform_))
            self.hidden.append(_activated(activation, dropout))
            values = units
        self.head = initialize(nn.Linear(values, outputs), nn.init.xavier_uniform_)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, ...) to logits (batch, outputs)."""
        if x[0].numel() != self.values:
            raise UserError(
                f"This net takes records of {self.values} values but was given a batch of shape {tuple(x.shape)}: "
                "build it with the values of the data."
            )
        return self.head(self.hidden(flatten(x)))


def _activated(activation: Activation, dropout: float) -> nn.Module:
    if activation == "relu":
        return ReLUDropout(dropout)
    return nn.Sequential(ACTIVATIONS[activation](), nn.Dropout(dropout))
