"""The adapted nets in plain PyTorch: Conv1d, BatchNorm1d and Dropout, without any optimization for speed."""

from __future__ import annotations

from torch import Tensor, nn

from ecgexp import models
from ecgexp.models import layers


class Conv(nn.Module):
    """Padding, then a convolution with the filters of one of our layers."""

    def __init__(self, ours: layers.SameConv) -> None:
        super().__init__()
        self.ours_padding = ours.padding_of
        self.conv = nn.Conv1d(ours.in_channels, ours.out_channels, ours.kernel_size[0], ours.stride[0])
        self.conv.load_state_dict(ours.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x, self.ours_padding(x.shape[-1])))


def plain(net: nn.Module, images: bool = False) -> nn.Module:
    """The same net. Its layers are replaced in place by PyTorch's own."""
    if isinstance(net, models.CNN):
        conv = plain(nn.Sequential(net.conv), images)
        return nn.Sequential(conv, net.activation, net.pooling, nn.Flatten(), net.head)
    for name, child in net.named_children():
        match child:
            case layers.DecimatedConv():  # as in the papers' code: compute all outputs, then keep every second one
                full = layers.SameConv(child.in_channels, child.out_channels, child.kernel_size[0])
                full.load_state_dict(child.state_dict())
                setattr(net, name, nn.Sequential(Conv(full), nn.MaxPool1d(1, child.stride[0])))
            case layers.SameConv():
                setattr(net, name, Conv(child))
            case layers.SameConv2d():
                sizes = (child.in_channels, child.out_channels, child.kernel_size[0], child.stride[0])
                full = nn.Conv2d(*sizes, padding=child.kernel_size[0] // 2, bias=child.bias is not None)
                full.load_state_dict(child.state_dict())
                setattr(net, name, full)
            case layers.BatchNorm():
                kind = nn.BatchNorm2d if images else nn.BatchNorm1d
                setattr(net, name, kind(child.num_features, eps=child.eps, momentum=child.momentum))
            case _:
                plain(child, images)
    return net
