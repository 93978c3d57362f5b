"""A small stand-in for ResNet50, for tests of how a network is trained, cut and kept: not of what it computes.

And the file of a network that must not be read.
"""

import io
import json
import zipfile
from typing import Any

BLOCKS = (("conv2", 8, 1), ("conv5", 64, 8))
"""Name, channels inside, and stride; of one block each. ResNet50 has 16 in four stages, of eight times the channels."""


def small_resnet(**values: Any) -> Any:
    """A ResNet of 30 layers, of Keras's own parts and with its names and its 1/32 of the side, to stand in for
    `keras.applications.ResNet50`, which has 174: tracing those takes most of the time of a short training."""
    from keras.src.applications import resnet

    def blocks(x: Any) -> Any:
        for name, channels, stride in BLOCKS:
            x = resnet.stack_residual_blocks_v1(x, channels, 1, stride1=stride, name=name)
        return x

    return resnet.ResNet(blocks, False, True, name="resnet50", **values)


def keras_file_with_link() -> bytes:
    """A `.keras` file whose weights refer to another file. It is harmless: the other file does not exist."""
    import h5py

    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file["layer"] = h5py.ExternalLink("another.h5", "/layer")
    config = json.dumps({"module": "keras", "class_name": "Model", "config": {}})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights.getvalue())
    return packed.getvalue()
