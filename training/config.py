"""The settings of a training run: presets, and single settings that are changed by name."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

SIDE = 224
FLOOR_RULE = "sensitivity>="
STEADY_RULE = "youden-1se"
ALL = -1  # the value of `unfreeze` with which the whole network learns
Pixels = Literal["caffe", "caffe/255", "unit", "tf", "torch"]
PIXELS: tuple[Pixels, ...] = get_args(Pixels)


class ConfigError(ValueError):
    """A preset or a setting does not exist, or cannot have this value. The message says what is possible."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Origin(_Frozen):
    """The weights from which a run starts.

    The weights are random (`none`), from ImageNet (downloaded by Keras), from a weights file in storage, or from a
    model version. `value`: the SHA-256 of the file, or the `name/number` of the version. `--set initial=` takes the
    text form, and a run stores it: `imagenet`, `file:SHA256`, `model:NAME/NUMBER`.
    """

    kind: Literal["none", "imagenet", "file", "model"] = "none"
    value: str = ""

    @model_validator(mode="before")
    @classmethod
    def _parse_text(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        kind, _, value = given.partition(":")
        return {"kind": kind, "value": value}

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        pattern, example = _ORIGIN_VALUES.get(self.kind, ("", self.kind))
        if not re.fullmatch(pattern, self.value):
            raise ValueError(f"a run cannot start from {str(self)!r}; write {example}")
        return self

    @model_serializer
    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind


_ORIGIN_VALUES = {"file": ("[0-9a-f]{64}", "file:SHA256"), "model": (r"\S{1,100}", "model:NAME/NUMBER")}


class Augment(_Frozen):
    """How much a training slice may be changed each time it is shown. 0 turns a change off.

    `rotation`, `shear`: degrees. `shift`, `zoom`: share of the side. `aspect`: share by which width and height differ.
    `flip`: left to right. `contrast`, `gamma`: share of change. `blur`, `noise`: standard deviation, in pixels and in
    grey levels. Contrast, gamma, blur and noise are each applied to the share `often` of slices. `jpeg`, `border`,
    `text`: share of slices that get compression artefacts, a frame or a line of letters. `erase`: share of slices with
    a blackened rectangle, so that no single place decides (Zhong et al., Random Erasing Data Augmentation, 2020).
    """

    rotation: float = Field(default=0, ge=0, le=180)
    shift: float = Field(default=0, ge=0, le=0.5)
    shear: float = Field(default=0, ge=0, le=45)
    zoom: float = Field(default=0, ge=0, le=0.5)
    aspect: float = Field(default=0, ge=0, le=0.5)
    flip: bool = False
    contrast: float = Field(default=0, ge=0, le=0.9)
    gamma: float = Field(default=0, ge=0, le=0.9)
    blur: float = Field(default=0, ge=0, le=3)
    noise: float = Field(default=0, ge=0, le=60)
    often: float = Field(default=0.3, ge=0, le=1)
    jpeg: float = Field(default=0, ge=0, le=1)
    border: float = Field(default=0, ge=0, le=1)
    text: float = Field(default=0, ge=0, le=1)
    erase: float = Field(default=0, ge=0, le=1)


class Stage(_Frozen):
    """Epochs in which the same layers learn.

    `unfreeze`: how many of the last layers of the base learn; 0 means only the head, -1 everything. `size`: side of the
    slices in pixels. `rate`: peak of the learning rate. `warmup`: epochs until the peak. `q`: exponent of the
    generalised cross-entropy (`training.network.loss`). With a larger q, labels that the network does not believe count
    less; 0 is plain cross-entropy. `patience`: the stage ends after so many epochs without a better validation loss; 0
    means that it does not end early. `average`: momentum of the moving average of the weights; the average is then
    validated and kept; 0 means no average. `copies`: the number of augmented copies of each slice, for which the frozen
    layers are computed once. `keep`: keep the epoch with the lowest validation loss, or the last one. With a small
    validation part, the best of many noisy epochs may be an early one that has learned little.
    """

    name: str = Field(pattern=r"^[a-z0-9-]{1,20}$")
    unfreeze: int = Field(ge=ALL, le=175)
    epochs: int = Field(ge=1, le=1000)
    size: int = Field(default=SIDE, ge=32, le=SIDE, multiple_of=32)
    batch: int = Field(default=32, ge=2, le=1024)
    optimizer: Literal["adam", "adamw"] = "adam"
    rate: float = Field(default=1e-3, gt=0, le=1)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = Field(default=0, ge=0)
    weight_decay: float = Field(default=0, ge=0, le=1)
    label_smoothing: float = Field(default=0, ge=0, lt=0.5)
    q: float = Field(default=0, ge=0, le=1)
    patience: int = Field(default=0, ge=0)
    average: float = Field(default=0, ge=0, lt=1)
    copies: int = Field(default=4, ge=1, le=64)
    keep: Literal["best", "last"] = "best"


class Config(_Frozen):
    """All settings of a training run, except its data and seed.

    `initial`: the weights from which it starts. `balanced`: both classes count the same in the loss, whatever their
    numbers of slices. `pixels`: the scale of pixels on which the weights were trained (`training.network.pixel_scale`).
    A run that starts from a model version uses the version's scale. `threshold`: the rule that chooses the threshold on
    the validation slices (`calibrate`). `floor`: the lowest sensitivity with which the version may be promoted.
    """

    preset: str
    initial: Origin = Origin()
    pixels: Pixels = "caffe"
    hidden: int = Field(default=256, ge=1, le=4096)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    augment: Augment
    stages: tuple[Stage, ...] = Field(min_length=1)
    balanced: bool = False
    threshold: str = "youden"
    floor: float = Field(default=0.85, ge=0, le=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @field_validator("threshold")
    @classmethod
    def _is_rule(cls, rule: str) -> str:
        floor_of(rule)
        return rule


def floor_of(rule: str) -> float | None:
    """Return the lowest sensitivity that a threshold rule allows, or None for Youden's rules. Raises ValueError."""
    if rule in ("youden", STEADY_RULE):
        return None
    try:
        floor = float(rule.removeprefix(FLOOR_RULE)) if rule.startswith(FLOOR_RULE) else 0.0
    except ValueError:
        floor = 0.0
    if not 0 < floor <= 1:
        raise ValueError(
            f'the threshold rule {rule!r} does not exist; choose one of "youden", "{STEADY_RULE}", "{FLOOR_RULE}0.95"'
        )
    return floor


_GENTLE = Augment(rotation=20, shift=0.1, shear=10, zoom=0.1, flip=True)
# These changes prepare the network for other scanners, windows, exports and screenshots.
_WIDE = Augment(
    rotation=14,
    shift=0.08,
    zoom=0.15,
    aspect=0.1,
    flip=True,
    contrast=0.25,
    gamma=0.3,
    blur=0.8,
    noise=8,
    jpeg=0.1,
    border=0.05,
    text=0.05,
)


def _whole(
    name: str, size: int, epochs: int, rate: float, warmup: float, label_smoothing: float = 0.05, q: float = 0
) -> Stage:
    """Return a stage in which all layers learn."""
    return Stage(
        name=name,
        unfreeze=ALL,
        size=size,
        epochs=epochs,
        optimizer="adamw",
        rate=rate,
        schedule="cosine",
        warmup=warmup,
        weight_decay=0.05,
        label_smoothing=label_smoothing,
        q=q,
        average=0.997,
        keep="last",
    )


def _later(name: str, unfreeze: int, epochs: int, rate: float) -> Stage:
    """Return a stage of the preset `default`: some layers learn, on six copies of each slice."""
    return Stage(
        name=name,
        unfreeze=unfreeze,
        epochs=epochs,
        optimizer="adamw",
        rate=rate,
        schedule="cosine",
        warmup=2,
        weight_decay=1e-2,
        label_smoothing=0.05,
        patience=12,
        average=0.98 if unfreeze else 0,
        copies=6,
    )


_PRESETS = (
    # The settings of the notebook from which this project grew.
    Config(
        preset="seed",
        initial=Origin(kind="imagenet"),
        augment=_GENTLE,
        stages=(
            Stage(name="head", unfreeze=0, epochs=100, patience=10),
            Stage(name="last-20", unfreeze=20, epochs=60, rate=1e-4, patience=10),
            Stage(name="last-40", unfreeze=40, epochs=80, rate=1e-5, patience=10),
        ),
    ),
    Config(
        preset="default",
        initial=Origin(kind="imagenet"),
        threshold="youden-1se",
        augment=_WIDE,
        stages=(
            _later("head", 0, 60, 1e-3),
            _later("last-20", 20, 40, 2e-4),
            _later("last-40", 40, 40, 1e-4),
        ),
    ),
    # The network learns most of its task from small pictures, which take a fraction of the time. The last epochs use
    # the size of prediction. They do not use label smoothing, which would make the probabilities less certain than they
    # should be. In the last epochs, labels that the network does not believe count a little less, because slices are
    # labelled by patient.
    Config(
        preset="scratch",
        threshold="youden-1se",
        augment=_WIDE.model_copy(update={"erase": 0.5}),
        stages=(
            _whole("small", 128, 20, 1e-3, 1),
            _whole("full", SIDE, 18, 5e-4, 0.5, label_smoothing=0, q=0.2),
        ),
    ),
    Config(
        preset="quick",
        threshold="youden-1se",
        augment=_GENTLE,
        stages=(_whole("small", 64, 12, 1e-3, 1), _whole("full", SIDE, 1, 2e-4, 0.2)),
    ),
)
ABOUT = {
    "default": "from ImageNet weights, strongly augmented: the one to begin with",
    "scratch": "from random weights: small slices first, full size last; an hour or more on a CPU",
    "quick": "minutes on a CPU: to see if everything works",
    "seed": "the settings of the notebook from which ctbatch grew",
}
PRESETS: dict[str, Config] = {config.preset: config for config in _PRESETS}


def preset(name: str) -> Config:
    """Return the preset with this name. Raises ConfigError."""
    if name not in PRESETS:
        raise ConfigError(f"the preset {name!r} does not exist; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def with_settings(config: Config, settings: Sequence[str]) -> Config:
    """Change single settings of a config, such as `initial=none`, `augment.flip=false`, `stages.0.epochs=3`.

    A stage may also be given by name: `stages.head.epochs=3`. Raises ConfigError.
    """
    values = config.model_dump(mode="json")
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r} is not a setting; write key=value")
        _put(values, path.strip().split("."), _value(text), setting)
    return checked(values)


def settings_of(config: Config) -> list[str]:
    """Return the settings that turn the config's preset into this config. Raises ConfigError if the preset is gone."""
    before, after = (one.model_dump(mode="json") for one in (preset(config.preset), config))
    return list(_changes("", before, after))


def _changes(path: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in after.items():
            yield from _changes(f"{path}.{name}".removeprefix("."), before.get(name), value)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            name = one["name"] if one["name"] == other["name"] else number
            yield from _changes(f"{path}.{name}", one, other)
    elif before != after:
        yield f"{path}={after if isinstance(after, str) else json.dumps(after)}"


def checked(values: dict[str, Any]) -> Config:
    """Return a config from its JSON form. Raises ConfigError."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {message}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(values: Any, path: list[str], value: Any, setting: str) -> None:
    *above, last = path
    for name in above:
        values = values[_key(values, name, setting)]
    values[_key(values, last, setting)] = value


def _key(values: Any, name: str, setting: str) -> Any:
    """Return the key or the index in `values` that `name` means."""
    names: list[Any] = []
    if isinstance(values, list):
        names = [stage.get("name") if isinstance(stage, dict) else None for stage in values]
        if name in names:
            return names.index(name)
        if name.isdecimal() and int(name) < len(values):
            return int(name)
    elif isinstance(values, dict):
        names = list(values)
        if name in names:
            return name
    others = f"; choose one of {', '.join(map(str, names))}" if names else ""
    raise ConfigError(f"{setting!r}: {name!r} does not exist{others}")
