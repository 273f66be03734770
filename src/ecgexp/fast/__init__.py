"""Faster layers and updates with the same results, behind the config key `fast`.

`speed_up` is for nets, `ecgexp.fast.training` for a training. Plain PyTorch gives equal results, except for rounding
and for the random numbers of dropout (`tests/fast`).
"""

from ecgexp.fast.layers import speed_up

__all__ = ["speed_up"]
