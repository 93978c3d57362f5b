"""A small stand-in for ResNet50, for tests of how a network is trained, cut and kept: not of what it computes."""

from typing import Any

BLOCKS = (("conv2", 8, 1), ("conv3", 16, 2), ("conv4", 32, 2), ("conv5", 64, 2))
"""Name, channels inside, and stride; each has one block, where ResNet50 has 3 to 6 of eight times the channels."""


def small_resnet(**values: Any) -> Any:
    """A ResNet of 50 layers and 0.13 million weights, of Keras's own parts and with its names: in place of
    `keras.applications.ResNet50`, which has 175 and 23 million. It is built and traced in a quarter of the time."""
    from keras.src.applications import resnet

    def blocks(x: Any) -> Any:
        for name, channels, stride in BLOCKS:
            x = resnet.stack_residual_blocks_v1(x, channels, 1, stride1=stride, name=name)
        return x

    return resnet.ResNet(blocks, False, True, name="resnet50", **values)
