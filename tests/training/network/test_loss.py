"""The loss of a stage: cross-entropy, or the generalised one, by its formula."""

import numpy as np
import pytest

LABELS = np.array([[0], [1], [1], [0]], np.float32)
LOGITS = np.array([[-3], [2], [-9], [60]], np.float32)


@pytest.mark.parametrize("q", [0.2, 0.7, 1.0])
def test_generalised_cross_entropy_follows_its_paper(q: float) -> None:
    from training.network.loss import loss_of

    positive = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    p = np.where(LABELS == 1, positive, 1 - positive)
    assert float(loss_of(q, 0)(LABELS, LOGITS)) == pytest.approx(((1 - p**q) / q).mean(), rel=1e-5)


def test_q_near_zero_gives_cross_entropy() -> None:
    from training.network.loss import loss_of

    for smoothing in (0, 0.1):
        expected = float(loss_of(0, smoothing)(LABELS, LOGITS))
        assert float(loss_of(1e-4, smoothing)(LABELS, LOGITS)) == pytest.approx(expected, rel=5e-3)


def test_unbelieved_labels_count_less() -> None:
    """Their pull on the logit, in cross-entropy 1 - p, is so times p**q."""
    from training.network.loss import loss_of

    step = 1e-2
    for logit in (-4.0, -1.0, 2.0):
        p = 1 / (1 + np.exp(-logit))
        low, high = (float(loss_of(0.5, 0)([[1.0]], [[logit + d]])) for d in (-step, step))
        assert (low - high) / (2 * step) == pytest.approx((1 - p) * p**0.5, rel=1e-2)


@pytest.mark.parametrize("q", [0.0, 0.4])
def test_slices_are_weighted_one_by_one(q: float) -> None:
    """Logits come as the network gives them, [n]."""
    from training.network.loss import loss_of

    labels, logits, weights = (np.array(values, np.float32) for values in ([1, 0, 1], [2, 1, -1], [3, 0, 0]))
    loss = loss_of(q, 0.1)
    alone = float(loss(labels[:1], logits[:1]))
    assert float(loss(labels, logits, sample_weight=weights)) == pytest.approx(alone)
    assert float(loss(labels[:, None], logits[:, None], sample_weight=weights)) == pytest.approx(alone)
