"""The shallow convolutional net of Toffanetto 2024."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from ecgexp.models.layers import (
    ACTIVATIONS,
    Count,
    SameConv2d,
    check_images,
    check_side,
    flatten,
    initialize,
)


class CNN(nn.Module):
    """One convolution with activation, a maximum over squares, and a dense layer.

    (batch, channels, height, width) to logits (batch, outputs).

    Parameters
    ----------
    channels, height, width : int
        Shape of one image.
    outputs : int
        Logits of an image.
    filters : int
        Filters of the convolution.
    kernel : int
        Side of the filters, in pixels.
    pooling : int
        Side of the squares whose maximum is kept, in pixels; 1 keeps everything.
    activation : {'relu', 'sigmoid', 'tanh', 'leaky_relu'}
        After the convolution.

    Raises
    ------
    UserError
        Where an image is smaller than a square of the pooling.

    Notes
    -----
    At the defaults 115,976 parameters, 15,616 of them in the convolution. Padding ('same' of the convolution, none of
    the pooling) and initial weights (Glorot uniform, biases zero) are Keras'.

    References
    ----------
    Toffanetto 2024, which compares 8 to 128 filters of 3 x 3 to 9 x 9 on blood cells and chooses the defaults here.

    Examples
    --------
    >>> import torch
    >>> net = CNN(channels=3, height=8, width=8, outputs=4, filters=16, kernel=3)
    >>> net(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        channels: Count = 3,
        height: Count = 28,
        width: Count = 28,
        outputs: Count = 8,
        filters: Count = 64,
        kernel: Count = 9,
        pooling: Count = 2,
        activation: Literal["relu", "sigmoid", "tanh", "leaky_relu"] = "relu",
    ) -> None:
        super().__init__()
        self.check_arguments(height, width, pooling)
        self.shape = channels, height, width
        self.conv = SameConv2d(channels, filters, kernel)
        self.activation = ACTIVATIONS[activation]()
        self.pooling = nn.MaxPool2d(pooling)
        values = filters * (height // pooling) * (width // pooling)
        self.head = initialize(nn.Linear(values, outputs), nn.init.xavier_uniform_)

    @staticmethod
    def check_arguments(height: int = 28, width: int = 28, pooling: int = 2, **_: Any) -> None:
        """Refuse images that are smaller than a square of the pooling."""
        check_side(height, width, pooling)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to logits (batch, outputs)."""
        check_images(x, *self.shape)
        # bias and activation rise with their argument: after the maximum they are the same, for fewer values
        assert self.conv.bias is not None
        largest = self.pooling(self.conv(x, bias=False)) + self.conv.bias[:, None, None]
        return self.head(flatten(self.activation(largest)))
