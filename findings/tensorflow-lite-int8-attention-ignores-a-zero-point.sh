#!/usr/bin/env bash
# A network in int8 with an attention layer behind a ReLU gives wrong scores in `tf.lite.Interpreter` of TensorFlow
# 2.21.0 as it is by default, and in ai-edge-litert 2.0.2 to 2.1.2. Nothing is said. Right are ai-edge-litert 1.4.0 and
# 2.1.3 to 2.3.0, OpenVINO 2026.4.1, and TensorFlow without its default delegate, XNNPACK. No TensorFlow is newer.
#
# Attention multiplies two activations (BATCH_MATMUL). In int8, a number is the scale times (code - zero point), and
# an activation has a zero point from -128 to 127 (LiteRT, 8-bit quantization specification). XNNPACK subtracts the zero
# point of the first factor, but takes that of the second for 0. Behind a ReLU it is -128, so each number of the second
# factor is too low by half of its range. `tf.lite.TFLiteConverter` makes such a network of `keras.layers.Attention` if
# it has samples to calibrate with (post-training quantization). MultiHeadAttention multiplies projections without a
# ReLU, whose zero points lie near 0, and its error is small (seen, but not checked here). Networks that multiply
# activations by weights only are right. TensorFlow says that LiteRT replaces its interpreter, not that their results
# differ. Seen, for 1 + 4 + 9 + 16 as a product of two activations, and for 200 slices, of which every second one has
# bright spots: the lowest and the highest score, and the AUC
#                                                       product   scores       AUC
#   Keras, float32                                      30.0      0.00, 1.00   1.00
#   TensorFlow 2.21.0, ai-edge-litert 2.1.2              9.8      0.41, 1.00   0.59
#   TensorFlow 2.21.0 without default delegates         29.9      0.00, 1.00   1.00
#   ai-edge-litert 2.3.0, OpenVINO 2026.4.1             29.9      0.00, 1.00   1.00
#   by hand, from the codes and the specification       30.0
#   by hand, with 0 for the second zero point            9.9
#
# What follows for whoever checks or serves such networks: use ai-edge-litert 2.3.0, or build the interpreter with
# `OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES`, and compare the scores of some slices with the float network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for name in tensorflow litert; do python3 -m venv "$folder/$name"; done
"$folder/tensorflow/bin/pip" --quiet --disable-pip-version-check install tensorflow-cpu==2.21.0 keras==3.15.1 \
    openvino==2026.4.1 numpy==2.4.6

cat >"$folder/judge.py" <<'PYTHON'
import numpy as np

RIGHT, WRONG = True, False
slices, sick = np.load("slices.npy"), np.arange(200) % 2 == 1


def run(make_interpreter, path):
    """Return a function that hands an array to a network of TensorFlow Lite."""
    interpreter = make_interpreter(model_path=path)
    interpreter.allocate_tensors()

    def scored(given):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return scored


def judge(name, product, score, expected):
    """Print what an engine gives, and return whether it is as stated at the top."""
    found = np.asarray(product(np.load("numbers.npy"))).item()
    scores = np.array([np.asarray(score(picture[None])).item() for picture in slices])
    ranks = scores[sick][:, None] - scores[~sick]
    auc = np.mean((ranks > 0) + (ranks == 0) / 2)
    print(f"{name}: {found:.1f}, scores {scores.min():.2f} to {scores.max():.2f}, AUC {auc:.2f}", flush=True)
    if expected == RIGHT:
        return abs(found - 30) < 0.5 and auc > 0.98 and scores.max() - scores.min() > 0.9
    return abs(found - 10) < 0.5 and auc < 0.9 and scores.min() > 0.2
PYTHON

cat >"$folder/train.py" <<'PYTHON'
import sys

import keras
import numpy as np
import openvino
import tensorflow as tf

SIZE = 32
rows, columns = np.mgrid[:SIZE, :SIZE]
keras.utils.set_random_seed(0)


def draw(number):
    """Return a slice of noise. Each second one has three bright spots."""
    random = np.random.default_rng(number)
    picture = random.normal(0, 0.1, (SIZE, SIZE))
    if number % 2:
        for row, column in random.integers(4, SIZE - 4, (3, 2)):
            picture += 0.8 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 4)
    return picture.astype(np.float32)[..., None]


def network(batch=None):
    """Return a network: 8 features at 64 places, ReLU, attention, the largest of each feature, and a score."""
    given = keras.Input((SIZE, SIZE, 1), batch_size=batch)
    features = keras.layers.Conv2D(8, 5, strides=4, padding="same", activation="relu")(given)
    features = keras.layers.Reshape((64, 8))(features)
    attended = keras.layers.Attention()([features, features])
    score = keras.layers.Dense(1, activation="sigmoid")(keras.layers.GlobalMaxPooling1D()(attended))
    return keras.Model(given, score)


def save(path, converter, samples):
    """Save a network in int8."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    with open(path, "wb") as file:
        file.write(converter.convert())


pictures = np.stack([draw(number) for number in range(800)])
labels = np.arange(800) % 2
trained, single = network(), network(1)
trained.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
trained.fit(pictures[200:], labels[200:], epochs=25, verbose=0)
single.set_weights(trained.get_weights())
single.export("saved", verbose=False)
save("network.tflite", tf.lite.TFLiteConverter.from_saved_model("saved"), pictures[200:400])

multiply = tf.function(
    lambda numbers: tf.matmul(numbers, tf.nn.relu(numbers), transpose_b=True),
    input_signature=[tf.TensorSpec((1, 1, 4))],
)
samples = np.random.default_rng(0).uniform(-4, 4, (500, 1, 4)).astype(np.float32)
samples[0], samples[1] = 4, -4
save("product.tflite", tf.lite.TFLiteConverter.from_concrete_functions([multiply.get_concrete_function()]), samples)
np.save("slices.npy", pictures[:200])
np.save("numbers.npy", np.array([[[1, 2, 3, 4]]], np.float32))

from judge import RIGHT, WRONG, judge, run  # noqa: E402

plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def without_delegates(model_path):
    return tf.lite.Interpreter(model_path=model_path, experimental_op_resolver_type=plain)


def by_openvino(path):
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda given: compiled(given)[0]


def by_hand(second_zero_point_is_used):
    """Return the product by the codes, scales and zero points that the network states."""
    interpreter = tf.lite.Interpreter(model_path="product.tflite")
    interpreter.allocate_tensors()
    stated = {each["index"]: each["quantization"] for each in interpreter.get_tensor_details()}
    multiplied = next(each for each in interpreter._get_ops_details() if each["op_name"] == "BATCH_MATMUL")
    (scale, zero), (second_scale, second_zero) = (stated[index] for index in multiplied["inputs"])
    numbers = np.load("numbers.npy")
    codes, second = np.round(numbers / scale), np.round(numbers / second_scale)
    assert second_zero == -128 and zero != 0
    if not second_zero_point_is_used:
        second = second + second_zero
    return (codes * second).sum() * scale * second_scale


hand = by_hand(True), by_hand(False)
print("by hand, and with zero point 0 of the second factor:", *(f"{found:.1f}" for found in hand))
tests = [
    judge("Keras", multiply, single, RIGHT),
    judge("TensorFlow", *(run(tf.lite.Interpreter, f"{name}.tflite") for name in ("product", "network")), WRONG),
    judge("no delegate", *(run(without_delegates, f"{name}.tflite") for name in ("product", "network")), RIGHT),
    judge("OpenVINO", *(by_openvino(f"{name}.tflite") for name in ("product", "network")), RIGHT),
    abs(hand[0] - 30) < 0.5 and abs(hand[1] - run(tf.lite.Interpreter, "product.tflite")(np.load("numbers.npy"))) < 0.5,
]
sys.exit(0 if all(tests) else f"changed: {tests}")
PYTHON

cat >"$folder/litert.py" <<'PYTHON'
import sys
from importlib.metadata import version

from ai_edge_litert.interpreter import Interpreter
from judge import RIGHT, WRONG, judge, run

found = version("ai-edge-litert")
expected = RIGHT if found == "2.3.0" else WRONG
as_stated = judge(found, *(run(Interpreter, f"{name}.tflite") for name in ("product", "network")), expected)
sys.exit(0 if as_stated else "changed")
PYTHON

cd "$folder"
export TF_CPP_MIN_LOG_LEVEL=3
tensorflow/bin/python train.py 2>errors || { cat errors >&2; exit 1; }
for version in 2.1.2 2.3.0; do
    litert/bin/pip --quiet --disable-pip-version-check install "ai-edge-litert==$version" numpy==2.4.6
    litert/bin/python litert.py 2>errors || { cat errors >&2; exit 1; }
done
