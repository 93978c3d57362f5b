"""Runs a package's network as a peer does: with the package's files and calibration, by calling Keras or OpenVINO."""

import base64
import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 224
ENGINES = {"keras": "keras-tensorflow-f32", "int8": "openvino-int8"}  # the engines' names in a package
Answer = dict[str, Any]


def prepare(file: bytes) -> NDArray[np.uint8]:
    """Return the picture in a file as the network takes it, uint8[224, 224]. The network scales the grey levels."""
    with Image.open(BytesIO(file)) as image:
        return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


class Network:
    """The network of a package. The engine `keras` computes in float32. The engine `int8` uses OpenVINO."""

    def __init__(self, package: Path, engine: str) -> None:
        manifest = json.loads((package / "package.json").read_text())
        own = manifest["calibration"].get(ENGINES[engine], {})
        self._temperature = own.get("temperature", manifest["temperature"])
        self._threshold = own.get("threshold", manifest["threshold"])
        self._engine = engine
        if engine == "keras":
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            import keras

            self._model: Any = keras.models.load_model(package / "model.keras", compile=False)
        else:
            import openvino

            self._model = openvino.Core().compile_model(package / "model-int8.xml", "CPU")
        self.answers(np.zeros((2, SIDE, SIDE), np.uint8))  # the first call is slow

    def answers(self, slices: NDArray[np.uint8]) -> list[Answer]:
        """Return the values that a peer records for each of n slices, uint8[n, 224, 224]."""
        if self._engine == "keras":
            outputs = self._model.predict(slices[..., None], verbose=0)
        else:
            outputs = {output.any_name: values for output, values in self._model(slices[..., None]).items()}
        logits = np.asarray(outputs["logit"], np.float64).reshape(-1)
        chances = 0.5 * (1 + np.tanh(0.5 * logits / self._temperature))
        return [
            {
                "logit": float(logits[i]),
                "probability": float(chances[i]),
                "positive": bool(chances[i] >= self._threshold),
                "cam": base64.b64encode(np.asarray(outputs["cam"][i], "<f2").tobytes()).decode(),
                "distance": float(outputs["distance"][i]),
            }
            for i in range(len(slices))
        ]
