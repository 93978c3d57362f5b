"""Initial weights are taken from any file that holds a ResNet50 of Keras's making, and from no other."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def source() -> Any:
    """Keras's ResNet50 with its top, as it comes."""
    import keras

    keras.utils.set_random_seed(5)
    return keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=7)


@pytest.fixture(scope="module")
def bare(source: Any) -> Any:
    """The same without its top."""
    import keras

    base = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), include_top=False)
    base.set_weights(source.get_weights()[:-2])
    return base


@pytest.fixture(scope="module")
def target() -> Any:
    from training.network.resnet50 import build_network

    return build_network(64, seed=1)


def is_taken(target: Any, source: Any) -> bool:
    names = ("conv1_conv", "conv3_block2_2_bn", "conv5_block3_3_conv")
    return all(
        np.array_equal(a, b)
        for name in names
        for a, b in zip(target.get_layer(name).get_weights(), source.get_layer(name).get_weights(), strict=True)
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("form", ["with-top.h5", "no-top.h5", "no-top.weights.h5", "with-top.keras", "no-top.keras"])
def test_every_format_of_weights_is_loaded(form, source, bare, target, tmp_path):
    from training.launch.weights_file import check_weights_file
    from training.network.load_weights import take_over

    model, path = (source if form.startswith("with") else bare), tmp_path / form
    model.save_weights(path) if ".weights." in form else model.save(path)
    nameless = tmp_path / "c0ffee"  # files in storage have no ending
    shutil.copyfile(path, nameless)
    target.get_layer("conv1_conv").set_weights([w * 0 for w in target.get_layer("conv1_conv").get_weights()])
    take_over(target, nameless)
    assert is_taken(target, source)
    check_weights_file(nameless)


@pytest.mark.slow
def test_named_keras_2_weights_are_loaded(bare, target, tmp_path):
    """As keras.applications and RadImageNet publish them: layer_names, weight_names, arrays."""
    import h5py

    from training.launch.weights_file import check_weights_file
    from training.network.load_weights import take_over

    path = tmp_path / "notop.h5"
    with h5py.File(path, "w") as file:
        layers = [layer for layer in bare.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            names = [f"{layer.name}/{weight.name}:0".encode() for weight in layer.weights]
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = names
            for name, array in zip(names, layer.get_weights(), strict=True):
                group.create_dataset(name.decode(), data=array)
    take_over(target, path)
    assert is_taken(target, bare)
    check_weights_file(path)


@pytest.mark.slow
def test_weights_of_our_models_include_the_head(target, tmp_path):
    from training.launch.weights_file import check_weights_file
    from training.network.resnet50 import build_network

    path = tmp_path / "own.keras"
    target.save(path)
    check_weights_file(path)
    again = build_network(96, weights=path, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(target.get_weights(), again.get_weights(), strict=True))


def test_missing_file_is_reported(tmp_path):
    from training.errors import WeightsError
    from training.network.resnet50 import build_network

    with pytest.raises(WeightsError, match="does not exist"):
        build_network(64, weights=tmp_path / "absent.h5")


@pytest.mark.slow
def test_another_architecture_is_refused(target, tmp_path):
    import h5py
    import keras

    from training.errors import WeightsError
    from training.launch.weights_file import check_weights_file
    from training.network.load_weights import take_over

    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="conv1_conv")])
    other.save(tmp_path / "other.keras")
    with pytest.raises(WeightsError, match=r"other\.keras holds no ResNet50"):
        check_weights_file(tmp_path / "other.keras")
    with pytest.raises(WeightsError, match="another architecture"):
        take_over(target, tmp_path / "other.keras")
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(WeightsError):
        take_over(target, tmp_path / "other.weights.h5")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.attrs["layer_names"] = []
    with pytest.raises(WeightsError, match="holds no layer conv1_conv"):
        take_over(target, tmp_path / "empty.h5")


def test_network_that_could_run_code_is_not_loaded(target, tmp_path):
    import keras

    from training.errors import WeightsError
    from training.launch.weights_file import check_weights_file
    from training.network.load_weights import take_over

    path = tmp_path / "lambda.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x, name="conv1_conv")]).save(path)
    for read in (check_weights_file, lambda path: take_over(target, path)):
        with pytest.raises(WeightsError, match="holds a Lambda, which runs code"):
            read(path)


def test_archive_of_weights_is_checked_without_holding_it_in_memory(tmp_path: Path):
    import tracemalloc
    import zipfile

    import h5py

    from training.launch.weights_file import WeightsError, check_weights_file

    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["conv1_conv"] = np.zeros((3, 3, 3, 64 << 14), np.float32)  # 108 MiB
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", '{"module": "keras", "class_name": "Model", "config": {}}')
        archive.write(tmp_path / "weights.h5", "model.weights.h5")
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match="holds no ResNet50"):
            check_weights_file(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_file_that_names_another_is_refused_before_it_is_read(target, tmp_path: Path):
    import h5py

    from training.errors import WeightsError
    from training.launch.weights_file import check_weights_file
    from training.network.load_weights import take_over

    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1_conv"]
        file["conv1_conv"] = h5py.ExternalLink("other.h5", "/conv1_conv")
    for read in (check_weights_file, lambda path: take_over(target, path)):
        with pytest.raises(WeightsError, match="holds a soft or external link"):
            read(path)


@pytest.mark.parametrize("data", [b"", b"no weights", b"PK\x03\x04 broken", b"\x89HDF\r\n\x1a\n broken"])
def test_other_files_are_refused(data, target, tmp_path: Path):
    from training.errors import WeightsError
    from training.launch.weights_file import check_weights_file
    from training.network.load_weights import take_over

    path = tmp_path / "file.h5"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=str(path)):
        take_over(target, path)
    with pytest.raises(WeightsError, match=str(path)):
        check_weights_file(path)
