"""A benchmark knows what else ran, and does not call a disturbed run a result."""

import os
from pathlib import Path

import pytest

from cli.benchmarks.watch import others
from cli.benchmarks.watch.new_files import FILES, LONGEST, PAUSE, QUICK, wait_until_quick
from cli.benchmarks.watch.others import Disturbance, marks, raise_if_spoilt, watched
from cli.benchmarks.watch.stage_times import ELSE, per_slice
from cli.errors import Unavailable
from db.timing.stages import Stage

INIT, OURS, CHILD, OTHER, KTHREAD = 1, os.getpid(), 10_000_001, 10_000_002, 10_000_003
PARENTS = {INIT: 0, OURS: INIT, CHILD: OURS, OTHER: INIT, KTHREAD: 2}


def write_proc(folder: Path, ticks: dict[int, int]) -> None:
    """Write the files of /proc for these processes, by the processor time that each has used."""
    for pid, used in ticks.items():
        (folder / str(pid)).mkdir(exist_ok=True)
        fields = ["S", PARENTS[pid], *[0] * 9, used, 0, 0, 0]
        (folder / str(pid) / "stat").write_text(f"{pid} (a (b) {pid}) {' '.join(map(str, fields))}")
    (folder / "stat").write_text(f"cpu {sum(ticks.values())} 0 0 999 9 0 0 0 0 0\n")


def watch(folder: Path, monkeypatch: pytest.MonkeyPatch, grown: dict[int, int]) -> Disturbance:
    """Watch while processes use these ticks."""
    monkeypatch.setattr(others, "PROC", folder)
    before = dict.fromkeys(PARENTS, 100)
    write_proc(folder, before)
    with watched() as disturbance:
        write_proc(folder, {pid: ticks + grown.get(pid, 0) for pid, ticks in before.items()})
    return disturbance


def test_time_of_our_own_processes_is_no_disturbance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = watch(tmp_path, monkeypatch, {OURS: 200, CHILD: 300})
    assert alone.own_seconds == 500 / others.TICKS
    assert (alone.share, alone.by_name, alone.spoils) == (0, {}, False)


def test_other_processes_are_named_and_spoil_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed = watch(tmp_path, monkeypatch, {OURS: 100, OTHER: 10_000, KTHREAD: 5_000})
    assert list(disturbed.by_name) == [f"a (b) {OTHER}", others.KERNEL]
    assert disturbed.spoils
    assert marks(disturbed)["disturbed"] is True


def test_disturbed_run_is_refused_unless_it_may_be_shown() -> None:
    quiet, disturbed = Disturbance(share=others.MOST_TAKEN), Disturbance(share=others.MOST_TAKEN + 0.001)
    raise_if_spoilt(quiet, shown=False)
    raise_if_spoilt(disturbed, shown=True)
    with pytest.raises(Unavailable):
        raise_if_spoilt(disturbed, shown=False)


def test_stages_and_everything_else_add_up_to_the_whole() -> None:
    nothing = dict.fromkeys(Stage, 0.0)
    parts = per_slice(nothing, nothing | {Stage.ENGINE: 2.0, Stage.DECODE: 1.0}, whole=4.0, slices=1000)
    assert (parts["engine"], parts["decode"], parts[ELSE], parts["total"]) == (2.0, 1.0, 1.0, 4.0)


@pytest.mark.parametrize(("slow", "is_quick", "pauses"), [(0, True, 0), (2, True, 2), (1000, False, LONGEST / PAUSE)])
def test_benchmark_waits_until_files_are_made_quickly(tmp_path: Path, slow: int, is_quick: bool, pauses: float) -> None:
    costs = iter([QUICK * 2] * slow + [QUICK / 2])
    waits: list[float] = []
    assert wait_until_quick(tmp_path, lambda _: next(costs), waits.append) is is_quick
    assert len(waits) == pauses


def test_cost_of_a_file_is_measured_by_making_some(tmp_path: Path) -> None:
    wait_until_quick(tmp_path, pause=lambda _: None)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) >= FILES
