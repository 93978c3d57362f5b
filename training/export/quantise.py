"""Makes int8 files of a network, with NNCF's post-training quantisation."""

import contextlib
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.background import run_with_heartbeat
from training.data.slices import Labelled

CALIBRATION_SLICES = 64  # slices on which NNCF measures activations
BIAS_CORRECTIONS = {"fast bias correction": True, "accurate bias correction": False}
"""The candidates. Which one is closer to float32 depends on the network, and on the processor that quantises. The
accurate correction runs the quantised network, and so fits it to the arithmetic of that processor."""
POOLS = ("ReduceMean", "AvgPool")  # the operations that make the pooled features


def candidates(
    source: Path, folder: Path, slices: NDArray[np.uint8], alive: Callable[[], None]
) -> Iterator[tuple[str, Path]]:
    """Quantise the float32 file `source` of OpenVINO in each way of `BIAS_CORRECTIONS`. Yield the names and files.

    The smallest and largest activations on `slices`, uint8[n, 224, 224], are the ranges. NNCF's default, the mean of
    the maxima of batches, would clip slices that activate a layer more than average slices do. The overflow fix leaves
    one bit of the weights unused, so that sums of products do not saturate on processors without VNNI. `alive` is
    called each second.
    """
    prevent_telemetry()
    import nncf
    import openvino as ov
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level("ERROR")
    samples = [pixels[None, ..., None] for pixels in slices]
    for number, (name, fast) in enumerate(BIAS_CORRECTIONS.items()):
        model = ov.Core().read_model(str(source))

        def quantise(model: Any = model, fast: bool = fast) -> Any:
            return nncf.quantize(
                model,
                nncf.Dataset(samples),
                subset_size=len(samples),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=sorted(_distance_nodes(model)), validate=False),
                fast_bias_correction=fast,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.ENABLE,
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                ),
            )

        with contextlib.redirect_stdout(io.StringIO()):  # NNCF always draws a progress bar
            quantised = run_with_heartbeat(quantise, alive)
        target = folder / f"candidate-{number}.xml"
        ov.save_model(quantised, str(target), compress_to_fp16=False)
        yield name, target


def draw_calibration(data: Labelled, seed: int) -> NDArray[np.uint8]:
    """Draw `CALIBRATION_SLICES` at random.

    Both classes are equally likely, and so are the groups of a class.
    """
    cells = list(zip(data.labels.tolist(), data.groups, strict=True))
    sizes = Counter(cells)
    groups = Counter(label for label, _ in sizes)
    weight = np.array([1 / (sizes[cell] * groups[cell[0]]) for cell in cells])
    chosen = np.random.default_rng(seed).choice(
        len(cells), min(CALIBRATION_SLICES, len(cells)), replace=False, p=weight / weight.sum()
    )
    return data.pixels[chosen]


def prevent_telemetry() -> None:
    """Block the module with which NNCF and OpenVINO's converter report their usage to their maker."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    os.environ["NNCF_CI"] = "1"


def _distance_nodes(model: Any) -> set[str]:
    """Return the nodes between the pooled features and the distance.

    They must not be quantised. In int8, no distance could exceed the largest distance of the slices that gave the
    range. So no slice would ever be out of distribution.
    """
    nodes: set[str] = set()
    waiting = [r for r in model.get_results() if "distance" in r.output(0).names | {r.get_friendly_name()}]
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in nodes or node.get_type_name() == "Constant":
            continue
        nodes.add(node.get_friendly_name())
        if node.get_type_name() not in POOLS:
            waiting += [value.get_node() for value in node.input_values()]
    return nodes
