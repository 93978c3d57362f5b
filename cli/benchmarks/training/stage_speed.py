"""Measures the speed of each training stage, and compares it with plain `model.fit`."""

from pathlib import Path

from cli.output import print_json, print_table, say


def run(slices: int, batch: int, path: Path | None, as_json: bool) -> None:
    """Measure on phantoms, or on a .npy file of uint8[n, 224, 224]. The labels are made up, and do not matter."""
    import numpy as np

    from training.data.slices import Labelled
    from training.demo.draw_in_parallel import draw_on_all_cores
    from training.loop.speed import measure

    if path:
        pixels = np.load(path, allow_pickle=False)[:slices]
    else:
        say(f"drawing {slices} phantoms")
        pixels = draw_on_all_cores(7, -(-slices // 2), 1, first_pair=0, size=224).pixels[:slices]
    labels = (np.arange(len(pixels)) % 2).astype(np.uint8)
    data = Labelled(pixels, labels, [str(i) for i in range(len(pixels))])
    speeds = list(measure(data, batch, say))
    if as_json:
        print_json([vars(speed) | {"ratio": speed.ratio} for speed in speeds])
        return
    columns = ("stage", "ours, slices/s", "plain model.fit, slices/s", "ratio", "preparing once, s", "with preparing")
    rows = [
        (o.stage, f"{o.ours:.1f}", f"{o.plain:.1f}", f"{o.ratio:.1f}", f"{o.prepare_seconds:.1f}",
         f"{o.with_preparing:.1f}")
        for o in speeds
    ]  # fmt: skip
    print_table(columns, rows)
