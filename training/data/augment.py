"""Augmentation: Keras layers that change training slices at random. Each batch has its own seed."""

import random
import string
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.config import Augment

STAMPS, STAMP_HEIGHT, STAMP_WIDTH = 64, 14, 64
BLUR_REACH = 2  # pixels on each side
ERASED = (0.02, 0.15)  # least and largest share of a slice that is blackened

# Quantisation of luminance, ITU-T T.81 (JPEG), table K.1.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip


class _Random(layers.Layer):  # type: ignore[misc]  # keras has no types
    """A layer that draws random numbers for each slice. `generator` has the same name as in Keras's random layers."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount
        self.generator = keras.random.SeedGenerator(0)

    def uniform(self, slices: Any, low: float, high: float) -> Any:
        """Draw a number for each slice, float32[n,1,1,1]."""
        return keras.random.uniform((ops.shape(slices)[0], 1, 1, 1), low, high, seed=self.generator)

    def chosen(self, slices: Any) -> Any:
        """Draw which slices are in the share `amount`, bool[n,1,1,1]."""
        return self.uniform(slices, 0, 1) < self.amount


class Sometimes(_Random):
    """Applies another layer to a share of slices, `amount`."""

    def __init__(self, amount: float, layer: Any) -> None:
        super().__init__(amount)
        self.layer = layer

    def call(self, slices: Any, training: bool = True) -> Any:
        """float32[n,h,w,1]."""
        return ops.where(self.chosen(slices), self.layer(slices, training=training), slices)


class RandomAffine(_Random):
    """Flips, rotates, shifts, shears, zooms and stretches in one step, because each resampling blurs.

    Beyond an edge, the slice is mirrored.
    """

    def __init__(self, amounts: Augment) -> None:
        super().__init__(0)
        self._amounts = amounts

    def call(self, slices: Any, training: bool = True) -> Any:
        """float32[n,s,s,1]."""
        a, side = self._amounts, slices.shape[1]

        def draw(most: float) -> Any:
            return self.uniform(slices, -most, most)[:, 0, 0, 0]

        angle, shear = draw(np.deg2rad(a.rotation)), draw(np.tan(np.deg2rad(a.shear)))
        zoom, aspect = draw(np.log1p(a.zoom)), draw(np.log1p(a.aspect) / 2)
        across, down = ops.exp(zoom + aspect), ops.exp(zoom - aspect)
        if a.flip:
            across = across * ops.where(draw(1) < 0, -1.0, 1.0)
        # Each pixel comes from: rotation · shear · scale about the middle, then the shift.
        cos, sin = ops.cos(angle), ops.sin(angle)
        xx, xy = cos * across, (cos * shear - sin) * down
        yx, yy = sin * across, (sin * shear + cos) * down
        middle = (side - 1) / 2
        x = middle - (xx + xy) * middle + draw(a.shift) * side
        y = middle - (yx + yy) * middle + draw(a.shift) * side
        matrix = ops.stack([xx, xy, x, yx, yy, y, ops.zeros_like(x), ops.zeros_like(x)], axis=1)
        return ops.image.affine_transform(slices, matrix, interpolation="bilinear", fill_mode="reflect")


class RandomGamma(_Random):
    """Applies a power law, like displays and exports, by up to `amount` in either direction."""

    def call(self, slices: Any, training: bool = True) -> Any:
        """Take and return float32[n,h,w,1] in 0..255."""
        return 255 * ops.power(ops.clip(slices / 255, 0, 1), ops.exp(self.uniform(slices, -self.amount, self.amount)))


class RandomBlur(_Random):
    """Blurs with a Gaussian of 5 × 5 pixels. Each slice has its own standard deviation, 0.1 to `amount` pixels.

    Keras's layer is not used, because it draws one deviation for a whole batch.
    """

    def call(self, slices: Any, training: bool = True) -> Any:
        """float32[n,h,w,1]."""
        height, width = slices.shape[1:3]
        offsets = np.arange(-BLUR_REACH, BLUR_REACH + 1, dtype=np.float32)
        weights = ops.exp(-ops.square(offsets / self.uniform(slices, 0.1, self.amount)) / 2)  # [n,1,1,5]
        weights = weights / ops.sum(weights, -1, keepdims=True)
        reach = (BLUR_REACH, BLUR_REACH)
        padded = ops.pad(slices, ((0, 0), reach, reach, (0, 0)), mode="reflect")
        rows = sum(weights[..., k : k + 1] * padded[:, k : k + height] for k in range(len(offsets)))
        return sum(weights[..., k : k + 1] * rows[:, :, k : k + width] for k in range(len(offsets)))


class RandomNoise(_Random):
    """Adds Gaussian noise with a standard deviation between 0 and `amount` grey levels."""

    def call(self, slices: Any, training: bool = True) -> Any:
        """float32[n,h,w,1] in 0..255. The result may be outside of this range."""
        noise = keras.random.normal(ops.shape(slices), seed=self.generator)
        return slices + noise * self.uniform(slices, 0, self.amount)


class RandomJpeg(_Random):
    """Compresses some slices like JPEG with a quality of about 15 to 75: rounds the cosine terms of 8 × 8 blocks."""

    def __init__(self, amount: float) -> None:
        super().__init__(amount)
        k = np.arange(8)
        cosine = np.cos((2 * k[None] + 1) * k[:, None] * np.pi / 16) * np.where(k == 0, 0.5**0.5, 1)[:, None] / 2
        self._cosine = cosine.astype(np.float32)
        self._table = np.array(_LUMINANCE, np.float32)[None, None, :, None, :]

    def call(self, slices: Any, training: bool = True) -> Any:
        """float32[n,h,w,1] in 0..255. The sides must be multiples of 8."""
        height, width = slices.shape[1:3]
        blocks = ops.reshape(slices - 128, (-1, height // 8, 8, width // 8, 8))
        terms = ops.einsum("ux,nixjy,vy->niujv", self._cosine, blocks, self._cosine)
        steps = self._table * ops.expand_dims(self.uniform(slices, 0.5, 3.3), -1)
        terms = ops.round(terms / steps) * steps
        blocks = ops.einsum("ux,niujv,vy->nixjy", self._cosine, terms, self._cosine)
        return ops.where(self.chosen(slices), ops.reshape(blocks, ops.shape(slices)) + 128, slices)


class RandomBorder(_Random):
    """Puts a black or white frame around some slices, which is at most an eighth of the side wide."""

    def call(self, slices: Any, training: bool = True) -> Any:
        """float32[n,h,w,1]."""
        height, width = slices.shape[1:3]
        width_of_frame = self.uniform(slices, 0, 0.125) * height
        rows = ops.reshape(ops.minimum(ops.arange(height), ops.arange(height - 1, -1, -1)), (1, -1, 1, 1))
        columns = ops.reshape(ops.minimum(ops.arange(width), ops.arange(width - 1, -1, -1)), (1, 1, -1, 1))
        outside = ops.cast(ops.minimum(rows, columns), "float32") < width_of_frame
        shade = ops.where(self.uniform(slices, 0, 1) < 0.7, 0.0, 255.0)
        return ops.where(ops.logical_and(outside, self.chosen(slices)), shade, slices)


class RandomText(_Random):
    """Writes a short line of letters and digits on some slices, as in exports and screenshots."""

    def __init__(self, amount: float) -> None:
        super().__init__(amount)
        self._stamps = _stamps()

    def call(self, slices: Any, training: bool = True) -> Any:
        """float32[n,h,w,1]."""
        height, width = slices.shape[1:3]
        which = ops.cast(self.uniform(slices, 0, STAMPS)[:, 0, 0, 0], "int32")
        stamp = ops.take(self._stamps, which, axis=0)
        top = ops.floor(self.uniform(slices, 0, max(height - STAMP_HEIGHT, 1))[:, :, :, 0])
        left = ops.floor(self.uniform(slices, 0, max(width - STAMP_WIDTH, 1))[:, :, :, 0])
        at_row = ops.reshape(ops.arange(height, dtype="float32"), (1, -1, 1)) - top
        at_column = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, -1)) - left
        rows = ops.cast(
            ops.equal(at_row, ops.reshape(ops.arange(STAMP_HEIGHT, dtype="float32"), (1, 1, -1))), "float32"
        )
        columns = ops.equal(at_column, ops.reshape(ops.arange(STAMP_WIDTH, dtype="float32"), (1, -1, 1)))
        ink = ops.expand_dims(ops.matmul(ops.matmul(rows, stamp), ops.cast(columns, "float32")), -1)
        return ops.where(self.chosen(slices), ops.maximum(slices, 255 * ink), slices)


def _stamps() -> NDArray[np.float32]:
    """Draw lines of letters as masks, float32[64, 14, 64] in 0..1."""
    draw, font = random.Random(0), ImageFont.load_default(11)  # noqa: S311  (pictures, no secrets)
    stamps = np.zeros((STAMPS, STAMP_HEIGHT, STAMP_WIDTH), np.float32)
    for stamp in stamps:
        text = "".join(draw.choices(string.ascii_uppercase + string.digits + " .:/", k=draw.randint(2, 9)))
        picture = Image.new("L", (STAMP_WIDTH, STAMP_HEIGHT))
        ImageDraw.Draw(picture).text((0, 0), text, fill=255, font=font)
        stamp[:] = np.asarray(picture, np.float32) / 255
    return stamps


class _Changes(keras.Model):  # type: ignore[misc]  # keras has no types
    """Applies layers one after the other to uint8[n,h,w,1]. A Keras model, so that the backend compiles it."""

    def __init__(self, changes: list[Any]) -> None:
        super().__init__(name="augmentation")
        self.changes = changes
        # XLA does not support TensorFlow's affine_transform
        self.compile(jit_compile=keras.backend.backend() != "tensorflow")

    def call(self, slices: Any) -> Any:
        """Apply the changes, also in prediction."""
        changed = ops.cast(slices, "float32")
        for layer in self.changes:
            changed = layer(changed, training=True)
        return ops.cast(ops.clip(ops.round(changed), 0, 255), "uint8")


class Augmenter:
    """Changes batches of slices by `amounts`. The same seed always makes the same changes."""

    def __init__(self, amounts: Augment) -> None:
        self._layers = _layers(amounts)
        inner = [layer.layer for layer in self._layers if isinstance(layer, Sometimes)]
        self._generators = [layer.generator for layer in (*self._layers, *inner)]
        # by the size of slices, because each model works for one size
        self._models: dict[tuple[int, ...], _Changes] = {}

    def __call__(self, slices: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Return changed slices, uint8[n,h,w], in the same shape."""
        if not self._layers:
            return slices
        if (size := slices.shape[1:]) not in self._models:
            self._models[size] = _Changes(self._layers)
        for number, generator in enumerate(self._generators):
            # Space the seeds 2¹⁶ apart, so that the streams of two layers do not overlap.
            generator.state.assign(np.array([seed % 2**32, number << 16], np.uint32))
        return np.asarray(self._models[size].predict_on_batch(slices[..., None]))[..., 0]


def _layers(amounts: Augment) -> list[Any]:
    """Make the layers: first geometry, then the effects of scanners, displays and exports."""
    a = amounts
    common: dict[str, Any] = {"value_range": (0, 255), "seed": 0}
    wanted: list[tuple[Any, Any]] = [
        (a.flip or a.rotation or a.shift or a.shear or a.zoom or a.aspect, lambda: RandomAffine(a)),
        (a.contrast, lambda: Sometimes(a.often, layers.RandomContrast(a.contrast, **common))),
        (a.gamma, lambda: Sometimes(a.often, RandomGamma(a.gamma))),
        (a.blur, lambda: Sometimes(a.often, RandomBlur(a.blur))),
        (a.noise, lambda: Sometimes(a.often, RandomNoise(a.noise))),
        (a.jpeg, lambda: RandomJpeg(a.jpeg)),
        (a.border, lambda: RandomBorder(a.border)),
        (a.text, lambda: RandomText(a.text)),
        (a.erase, lambda: layers.RandomErasing((a.erase, a.erase), scale=ERASED, fill_value=0, **common)),
    ]
    return [make() for amount, make in wanted if amount]
