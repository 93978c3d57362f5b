"""The decoding pool: what a hostile file can do to it, and what it cannot."""

import ast
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.worker.imaging.builders import dicom, image, png
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.recipe import PIXEL_BYTES, PreparedSlice
from worker.imaging.rejections import ArchiveRefused, DecoderUnavailable, SliceRejected
from worker.imaging.sandbox import pool as pool_module
from worker.imaging.sandbox.pool import DecoderPool

ROOT = Path(__file__).parents[4]
LIMITS = DecodeLimits(cpu_seconds=1, wall_seconds=20)


def hostile(size: int = 1, limits: DecodeLimits = LIMITS) -> DecoderPool:
    return DecoderPool(size, limits, function="tests.worker.imaging.sandbox.hostile_decoder:decode")


@pytest.fixture(scope="module")
def shared() -> Iterator[DecoderPool]:
    """One hostile decoder for tests that leave it alive."""
    with hostile() as pool:
        yield pool


def told(pool: DecoderPool, *files: str) -> list[str]:
    """Of each file its grey, or the code and detail of its rejection."""
    answers = []
    for (key, result), file in zip(pool.map((file, file.encode()) for file in files), files, strict=True):
        assert key == file
        if isinstance(result, SliceRejected):
            answers.append(result.code if result.code != "corrupt" else result.detail)
        else:
            answers.append(f"ok {result[0].pixels[0, 0]}")
    return answers


def waits_for(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true in a time that is long for a machine."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


def children() -> set[int]:
    """The processes that this thread and its others have started, and that still run."""
    lists = [(task / "children").read_text() for task in Path("/proc/self/task").iterdir()]
    return {int(pid) for text in lists for pid in text.split() if not is_gone(int(pid))}


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_pool_decodes_in_order_as_this_process_does() -> None:
    files = [png(), image("JPEG"), b"no image", dicom(), image("TIFF"), image("BMP"), png()[:60]] * 5
    with DecoderPool(2, DecodeLimits()) as pool:
        results = list(pool.map(enumerate(files)))
        assert len(pool.process_ids) == 2
    assert [key for key, _ in results] == list(range(len(files)))
    for (_, result), data in zip(results, files, strict=True):
        try:
            expected = decode(data, DecodeLimits())
        except SliceRejected as rejection:
            assert isinstance(result, SliceRejected)
            assert (result.code, result.detail) == (rejection.code, rejection.detail)  # noqa: PT017
            continue
        assert isinstance(result, list)
        assert (result[0].pixels == expected[0].pixels).all()
        assert result[0].series == expected[0].series


def test_rejections_pass_through_in_their_place(shared: DecoderPool) -> None:
    given = SliceRejected("nested", "as the archive said")
    items: list[tuple[int, bytes | SliceRejected]] = [(1, b"ok 1"), (2, given), (3, b"ok 3")]
    results = list(shared.map(items))
    assert [key for key, _ in results] == [1, 2, 3]
    assert results[1][1] is given


def test_decoders_are_kept_between_files_and_calls(shared: DecoderPool) -> None:
    assert told(shared, "ok 1", "ok 2") == ["ok 1", "ok 2"]
    before = shared.process_ids
    assert told(shared, "ok 3") == ["ok 3"]
    assert shared.process_ids == before


def test_another_owner_gets_fresh_decoders(shared: DecoderPool) -> None:
    shared.serve("ann")
    told(shared, "ok 1")
    anns = shared.process_ids
    shared.serve("ann")
    told(shared, "ok 2")
    assert shared.process_ids == anns
    shared.serve("bob")
    told(shared, "ok 3")
    assert not set(anns) & set(shared.process_ids)
    assert all(is_gone(pid) for pid in anns)


@pytest.mark.slow
def test_a_decoder_that_was_started_ahead_serves_the_next_owner() -> None:
    with hostile() as pool:
        pool.serve("ann")
        told(pool, "ok 1")
        anns = pool.process_ids
        pool.start_ahead()
        assert told(pool, "ok 2") == ["ok 2"]
        assert pool.process_ids == anns
        pool.serve("bob")
        assert told(pool, "ok 3") == ["ok 3"]
        assert not set(anns) & set(pool.process_ids)


def test_a_decoder_that_was_never_used_ends_with_its_pool() -> None:
    before = children()
    with hostile() as pool:
        pool.start_ahead()
        assert waits_for(lambda: bool(children() - before))
    assert waits_for(lambda: children() <= before)


def test_no_file_waits_for_a_decoder_that_starts_while_another_is_ready(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    never_ready = tmp_path / "python"
    never_ready.write_text("#!/bin/sh\nexec sleep 600\n")
    never_ready.chmod(0o700)
    with hostile(2) as pool:
        told(pool, "ok 1")
        monkeypatch.setattr(sys, "executable", str(never_ready))
        assert told(pool, *(f"ok {number}" for number in range(6))) == [f"ok {number}" for number in range(6)]
        assert len(pool.process_ids) == 2


def test_a_decoder_serves_only_so_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_FILES_A_DECODER", 3)
    with hostile(2) as pool:
        answers = told(pool, *["pid"] * 8)
    by_pid = Counter(answers)
    assert max(by_pid.values()) <= 3
    assert len(by_pid) >= 3


@pytest.mark.slow
def test_processor_time_counts_decoders_that_are_gone(shared: DecoderPool) -> None:
    told(shared, "ok 1")
    before = shared.cpu_seconds
    assert before > 0
    told(shared, "spin")
    assert shared.cpu_seconds >= before + LIMITS.cpu_seconds


@pytest.mark.slow
def test_row_21_a_file_that_kills_its_decoder_is_decoder_crash_and_siblings_go_on() -> None:
    with hostile(2) as pool:
        assert told(pool, "ok 1", "crash", "ok 3", "exit 0", "ok 5", "ok 6") == [
            "ok 1",
            "decoder_crash",
            "ok 3",
            "decoder_crash",
            "ok 5",
            "ok 6",
        ]


@pytest.mark.slow
@pytest.mark.parametrize("hang", ["spin", "hang"])
def test_row_21_a_file_that_hangs_its_decoder_is_decoder_timeout_and_siblings_go_on(hang: str) -> None:
    limits = DecodeLimits(cpu_seconds=1, wall_seconds=1.5 if hang == "hang" else 30)
    with hostile(2, limits) as pool:
        assert told(pool, "ok 1", hang, "ok 3", "ok 4") == ["ok 1", "decoder_timeout", "ok 3", "ok 4"]


def test_a_file_that_takes_too_much_memory_is_decoder_memory() -> None:
    with DecoderPool(1, DecodeLimits(memory_bytes=180 * 1024 * 1024)) as pool:
        small = image("BMP")
        big = image("PNG", Image.new("RGB", (6200, 6200)))
        (_, first), (_, refused), (_, last) = pool.map([(0, small), (1, big), (2, small)])
    assert isinstance(first, list)
    assert isinstance(refused, SliceRejected)
    assert refused.code == "decoder_memory"
    assert isinstance(last, list)


def test_memory_is_bounded(shared: DecoderPool) -> None:
    assert told(shared, "allocate 1000000", "allocate 600000000") == ["1000000", "MemoryError: "]


@pytest.mark.slow
def test_a_kill_from_outside_costs_no_file() -> None:
    with hostile(2) as pool:
        answers = pool.map((n, b"ok %d" % n) for n in range(30))
        seen = []
        for n, result in answers:
            assert isinstance(result, list)
            seen.append(int(result[0].pixels[0, 0]))
            if n in (5, 20):
                os.kill(pool.process_ids[0], signal.SIGKILL)
    assert seen == list(range(30))


def test_a_file_is_not_blamed_for_what_another_left_behind() -> None:
    with hostile() as pool:
        assert told(pool, *["crash-if-not-first"] * 2) == ["survived"] * 2


def test_a_file_is_not_blamed_for_memory_another_took() -> None:
    with hostile() as pool:
        told(pool, "ok 1")
        (first,) = pool.process_ids
        assert told(pool, "run-short") == ["decoder_memory"]
        assert pool.process_ids != [first]


@pytest.mark.parametrize(("lie", "answer"), [("noise", "decoder_crash"), ("unasked", "a")])
def test_a_decoder_that_forges_answers_is_put_down(lie: str, answer: str) -> None:
    with hostile() as pool:
        assert told(pool, f"forge {lie}") == [answer]
        assert pool.process_ids == []
        assert told(pool, "ok 2") == ["ok 2"]


def test_decoder_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    with hostile() as pool:
        (names,) = told(pool, "environment")
        assert set(ast.literal_eval(names)) - {"LD_LIBRARY_PATH", "LC_CTYPE"} == {
            "LANG",
            "MKL_NUM_THREADS",
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "PATH",
        }
        pid = pool.process_ids[0]
        assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert sorted(str(Path(f"/proc/{pid}/fd/{fd}").readlink()).split(":")[0] for fd in range(4)) == [
            "/dev/null",
            "/dev/null",
            "pipe",
            "pipe",
        ]


def test_only_what_decoding_needs_is_imported(shared: DecoderPool) -> None:
    assert told(shared, "modules") == ["[]"]


@pytest.mark.parametrize(
    "attempt", ["open /etc/passwd", "create /tmp/x", "list /", "socket", "fork", "run", "kill-self", "raise-limit"]
)
def test_files_network_processes_and_limits_are_out_of_reach(shared: DecoderPool, attempt: str) -> None:
    (answer,) = told(shared, attempt)
    (pid,) = shared.process_ids
    if "Seccomp:\t2" not in Path(f"/proc/{pid}/status").read_text():
        pytest.skip("this kernel sets no system call filter")
    assert answer.startswith(("PermissionError", "ValueError: not allowed to raise"))
    assert told(shared, "ok 5") == ["ok 5"]


def test_limits_hold_also_without_the_filter(shared: DecoderPool) -> None:
    told(shared, "ok 1")
    limits = Path(f"/proc/{shared.process_ids[0]}/limits").read_text()
    soft = {line[:25].strip(): line[25:].split()[0] for line in limits.splitlines()[1:]}
    hard = {line[:25].strip(): line[25:].split()[1] for line in limits.splitlines()[1:]}
    assert (hard["Max file size"], hard["Max core file size"], hard["Max open files"]) == ("0", "0", "8")
    assert soft["Max address space"] == str(512 * 1024 * 1024 + len(b"ok 1")), "and the bytes of the file"
    assert hard["Max address space"] == str((512 + 640) * 1024 * 1024)


def test_what_a_library_prints_does_not_get_between_answers(shared: DecoderPool) -> None:
    assert told(shared, "print hello", "ok 7")[1] == "ok 7"


def test_interrupts_meant_for_the_parent_leave_decoders_alone(shared: DecoderPool) -> None:
    told(shared, "ok 1")
    (pid,) = shared.process_ids
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert told(shared, "ok 2") == ["ok 2"]
    assert shared.process_ids == [pid]


@pytest.mark.slow
def test_slow_consumers_time_nothing_out() -> None:
    with hostile(1, DecodeLimits(wall_seconds=1)) as pool:
        results: list[object] = []
        for _, result in pool.map((n, b"large 100") for n in range(2)):
            time.sleep(1.1)
            results.append(result if isinstance(result, SliceRejected) else len(result))
    assert results == [100] * 2


@pytest.mark.slow
def test_files_larger_than_any_pipe_go_both_ways() -> None:
    big = image("BMP") + bytes(30_000_000)
    with DecoderPool(2, DecodeLimits()) as pool:
        results = [result for _, result in pool.map((n, big) for n in range(5))]
    assert [isinstance(result, list) for result in results] == [True] * 5
    with hostile(2) as pool:
        sizes = [len(result) for _, result in pool.map([(0, b"large 500")] * 3) if isinstance(result, list)]
    assert sizes == [500] * 3


def test_source_is_read_ahead_only_to_the_limit(shared: DecoderPool) -> None:
    taken = []

    def source() -> Iterator[tuple[int, bytes]]:
        for n in range(100):
            taken.append(n)
            yield n, b"ok 1"

    for n, _ in shared.map(source()):
        assert len(taken) <= n + 1 + 4
    assert len(taken) == 100


def test_error_of_the_source_comes_after_earlier_results(shared: DecoderPool) -> None:
    def source() -> Iterator[tuple[int, bytes]]:
        yield 1, b"ok 1"
        yield 2, b"ok 2"
        raise ArchiveRefused("truncated_archive", "cut off", "b.png")

    results: list[tuple[int, list[PreparedSlice] | SliceRejected]] = []
    with pytest.raises(ArchiveRefused, match=r"b\.png"):
        results.extend(shared.map(source()))
    assert [key for key, _ in results] == [1, 2]


def test_a_caller_who_leaves_early_leaves_no_work_behind() -> None:
    with hostile() as pool:
        answers = pool.map([(1, b"ok 1"), (2, b"hang"), (3, b"ok 3")])
        assert next(answers)[0] == 1
        answers.close()  # type: ignore[attr-defined]
        assert told(pool, "ok 9") == ["ok 9"]


def test_one_caller_at_a_time(shared: DecoderPool) -> None:
    answers = shared.map([(1, b"ok 1"), (2, b"ok 2")])
    next(answers)
    with pytest.raises(RuntimeError, match="one caller"):
        next(shared.map([(3, b"ok 3")]))
    assert len(list(answers)) == 1


def test_decoders_outlive_the_thread_that_used_them() -> None:
    """A parent-death signal is tied to the thread that started the child."""
    with hostile() as pool:
        first = threading.Thread(target=told, args=(pool, "ok 1"))
        first.start()
        first.join()
        (pid,) = pool.process_ids
        assert told(pool, "ok 2", "ok 3") == ["ok 2", "ok 3"]
        assert pool.process_ids == [pid]


def test_closing_ends_every_decoder() -> None:
    pool = hostile(2)
    told(pool, *["ok 1"] * 8)
    pids = pool.process_ids
    pool.close()
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


@pytest.mark.slow
def test_decoders_that_do_not_start_are_a_fault_of_the_machine() -> None:
    with (
        DecoderPool(1, LIMITS, function="no_such_module:decode") as pool,
        pytest.raises(DecoderUnavailable, match="do not start"),
    ):
        list(pool.map([(1, b"ok 1")]))


UNFILTERED = "tests.worker.imaging.sandbox.unfiltered_decoder:decode"


def test_nothing_is_decoded_without_a_filter(tmp_path: Path) -> None:
    trace = tmp_path / "decoded"
    with DecoderPool(2, LIMITS, function=UNFILTERED) as pool:
        for _ in range(2):
            with pytest.raises(DecoderUnavailable, match="CTBATCH_ALLOW_UNFILTERED_DECODERS"):
                list(pool.map((n, f"create {trace}".encode()) for n in range(8)))
        assert pool.process_ids == []
    assert not trace.exists()


def test_a_missing_filter_that_is_allowed_is_logged_once_and_the_limits_still_hold(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        DecoderPool(2, LIMITS, function=UNFILTERED, filter_required=False) as pool,
        caplog.at_level(logging.WARNING),
    ):
        assert told(pool, *["ok 1"] * 8, "allocate 600000000") == ["ok 1"] * 8 + ["MemoryError: "]
        assert len(pool.process_ids) == 2
    assert caplog.text.count("without a system call filter: no filter is known for") == 1


PROGRAM = """
import multiprocessing
from worker.imaging.sandbox.pool import DecodeLimits, DecoderPool

def work():
    function = "tests.worker.imaging.sandbox.hostile_decoder:decode"
    pool = DecoderPool(1, DecodeLimits(wall_seconds=300), function=function)
    (_, (slice_,)), = pool.map([(0, b"ok 9")])
    print(slice_.pixels[0, 0], pool.process_ids[0], flush=True)
    list(pool.map([(0, b"hang")]))

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    child.start()
    print(child.pid, flush=True)
    child.join()
"""


@pytest.mark.slow
def test_the_pool_works_in_a_daemonic_process_and_a_hung_decoder_dies_with_it() -> None:
    """As in a Celery prefork child, which may have no children of multiprocessing's kind."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        daemon = int(parent.stdout.readline())
        grey, decoder = (int(word) for word in parent.stdout.readline().split())
        assert grey == 9
        assert not is_gone(decoder)
        os.kill(daemon, signal.SIGKILL)
        assert waits_for(lambda: is_gone(decoder))
        parent.wait()


def test_pixels_are_read_only_and_hashed_here(shared: DecoderPool) -> None:
    ((_, result),) = shared.map([(0, b"ok 3")])
    assert isinstance(result, list)
    assert not result[0].pixels.flags.writeable
    assert result[0].pixels.tobytes() == b"\x03" * PIXEL_BYTES
    assert result[0].sha256_pixels == hashlib.sha256(b"\x03" * PIXEL_BYTES).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_of_600_mib_fits_into_the_memory_of_a_decoder(compression: str | None) -> None:
    whole = image("TIFF", compression=compression)
    (expected,) = decode(whole, DecodeLimits())
    with DecoderPool(1, DecodeLimits()) as pool:
        ((_, result),) = pool.map([(0, whole + bytes(600 * 1024 * 1024))])
    assert isinstance(result, list)
    assert (result[0].pixels == expected.pixels).all()
