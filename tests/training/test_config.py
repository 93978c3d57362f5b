"""Presets are the recipes they are named for, and single settings are changed by name."""

import pytest

from training.config import ALL, PRESETS, ConfigError, preset, with_settings


def test_seed_is_the_recipe_of_the_original_notebook():
    stages = preset("seed").stages
    assert [(s.unfreeze, s.epochs) for s in stages] == [(0, 100), (20, 60), (40, 80)]
    assert {s.optimizer for s in stages} == {"adam"}
    assert all(s.patience for s in stages)
    augment = preset("seed").augment
    assert all((augment.rotation, augment.shift, augment.shear, augment.zoom, augment.flip))
    assert preset("seed").initial.kind == "imagenet"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_ends_at_the_size_of_prediction(name):
    assert PRESETS[name].stages[-1].size == 224


@pytest.mark.parametrize("name", ["default", "scratch"])
def test_wide_presets_use_all_artefact_augmentations(name):
    augment = preset(name).augment
    assert all((augment.gamma, augment.blur, augment.noise, augment.jpeg, augment.border, augment.text))


def test_nothing_is_frozen_from_scratch():
    assert preset("scratch").initial.kind == "none"
    assert {s.unfreeze for s in preset("scratch").stages} == {ALL}


def test_settings_are_changed_by_name():
    config = with_settings(
        preset("seed"), ["stages.head.epochs=3", "augment.flip=false", "threshold=sensitivity>=0.95"]
    )
    assert (config.stages[0].epochs, config.augment.flip, config.threshold) == (3, False, "sensitivity>=0.95")
    assert config.stages[1] == preset("seed").stages[1]


@pytest.mark.parametrize("rule", ["youden", "youden-1se", "sensitivity>=.9", "sensitivity>=0.95", "sensitivity>=1"])
def test_accepted_threshold_rules_can_be_applied(rule):
    from training.evaluation.calibrate import choose_threshold

    taken = with_settings(preset("seed"), [f"threshold={rule}"]).threshold
    assert 0 < choose_threshold([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1], taken) < 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "write key=value"),
        ("stages.tail.epochs=3", "'tail' does not exist; choose one of head, last-20, last-40"),
        ("stages.head.colour=3", "'colour' does not exist"),
        ("stages.head.epochs=0", "stages.0.epochs: Input should be greater than or equal to 1"),
        ("stages.head.size=100", "multiple of 32"),
        ("augment.flip.more=1", "'more' does not exist"),
        ("stages.head.warmup=Infinity", "stages.0.warmup: Input should be a finite number"),
        ("initial=somewhere", "initial.kind: "),
        ("initial=model:", "initial: .*write model:NAME/NUMBER"),
        ("initial=file:c0ffee", "initial: .*write file:SHA256"),
        ("threshold=sensitivity>=0.0", "threshold: .*the threshold rule .* does not exist"),
        ("threshold=sensitivity>=1.01", "threshold: .*the threshold rule .* does not exist"),
        ("threshold=sensitivity>=nan", "threshold: .*the threshold rule .* does not exist"),
        ("threshold=youden-2se", 'threshold: .*choose one of "youden", "youden-1se", "sensitivity>=0.95"'),
    ],
)
def test_invalid_setting_is_refused_in_one_line(setting, message):
    with pytest.raises(ConfigError, match=message) as refused:
        with_settings(preset("seed"), [setting])
    assert "\n" not in str(refused.value)


def test_stages_of_the_wrong_type_are_refused():
    with pytest.raises(ConfigError, match="'head' does not exist; choose one of None"):
        with_settings(preset("seed"), ["stages=[1]", "stages.head.epochs=3"])


def test_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="choose one of seed, default, scratch, quick"):
        preset("fast")
