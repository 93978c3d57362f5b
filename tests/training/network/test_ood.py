"""The out-of-distribution distance: its layers compute the formula, and images without a chest are far away."""

import numpy as np
import pytest

from worker.phantoms.slices import labelled_slices


@pytest.fixture(scope="module")
def phantoms():
    return labelled_slices(3, pairs=40, per_patient=1, size=64).pixels


@pytest.fixture(scope="module")
def network():
    from training.network.resnet50 import build_network

    return build_network(64, hidden=8, seed=1)


@pytest.fixture(scope="module")
def known(network, phantoms):
    from training.network.ood_distance import with_distance

    return with_distance(network, phantoms[:60])


def distances(model, slices):
    return answers(model, slices)["distance"]


def answers(model, slices):
    """Call the model directly: `predict` would trace its 174 layers first."""
    return {name: np.asarray(output) for name, output in model(slices[..., None]).items()}


def test_layers_compute_the_formula(network, phantoms, known):
    from training.network import ood_distance

    fitted = phantoms[:60].copy()
    fitted[1::2] = fitted[1::2, :, ::-1]
    extractor = ood_distance.pooled_features(network)
    features = np.asarray(extractor(fitted[..., None]), np.float64)
    deviation = features.std(0)
    by_depth = np.split(deviation, np.cumsum(ood_distance.WIDTHS)[:-1])
    deviation = np.concatenate([part + ood_distance.SOFTENED * part.mean() for part in by_depth])
    mean = features.mean(0)
    scaled = (features - mean) / deviation
    _, values, directions = np.linalg.svd(scaled, full_matrices=False)
    count = min(ood_distance.COMPONENTS, len(features) // 4)
    variance = values[:count] ** 2 / len(features)
    rest = max((scaled**2).sum(1).mean() - variance.sum(), 1e-9)
    unseen = np.asarray(extractor(phantoms[60:, ..., None]), np.float64)
    z = (unseen - mean) / deviation
    along = z @ directions[:count].T
    inside = (along**2 / variance).sum(1)
    left = np.maximum((z**2).sum(1) - (along**2).sum(1), 0)
    expected = np.sqrt((inside + ood_distance.RESIDUAL_WEIGHT * left / rest) / (count + ood_distance.RESIDUAL_WEIGHT))
    assert np.allclose(distances(known, phantoms[60:]), expected, rtol=2e-2)


@pytest.mark.slow
def test_distance_leaves_scores_unchanged(network, phantoms, known):
    before, after = answers(network, phantoms), answers(known, phantoms)
    assert np.array_equal(before["logit"], after["logit"])
    assert np.array_equal(before["cam"], after["cam"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "strange",
    [
        lambda slices: 255 - slices,
        lambda slices: np.random.default_rng(0).integers(0, 256, slices.shape, dtype=np.uint8),
        lambda slices: np.zeros_like(slices),
        lambda slices: np.clip(slices.astype(int) * 3 - 300, 0, 255).astype(np.uint8),
    ],
    ids=["inverted", "noise", "black", "wrong window"],
)
def test_non_ct_images_have_larger_ood_distance(strange, phantoms, known):
    from training.network.ood_distance import threshold_of

    unseen = phantoms[60:]
    limit = threshold_of(distances(known, unseen))
    assert (distances(known, strange(unseen)) > limit).all()


def test_threshold_passes_most_unseen_slices():
    from training.network.ood_distance import threshold_of

    assert threshold_of(np.arange(1000, dtype=np.float32)) == pytest.approx(979 * 1.25, rel=0.01)
