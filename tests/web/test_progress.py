"""How far a job or a run is, as its page shows it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from db.ledger.job_view import JobView
from db.models import JobState
from db.training.runs import RunView
from web.views import filters
from web.views.progress import Stage, by_rule, has_much_ood, job_stages, milestone, run_stages, segments

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(seconds=90)
COUNTS = ("received", "predicted", "positive", "rejected", "quarantined", "cancelled", "open")


def job(
    state: str = "queued", *, unpacked: int = 0, total: int = 4, total_known: bool = True, **values: Any
) -> JobView:
    """A job of one file, with the slices of `counts`."""
    counts = dict.fromkeys(COUNTS, 0) | values.pop("counts", {})
    counts["received"] = sum(counts[name] for name in COUNTS if name not in ("received", "positive"))
    done = counts["received"] - counts["open"]
    ended = state not in ("queued", "running")
    nothing_predicted = ended and not counts["predicted"]
    facts: dict[str, Any] = {
        "id": "a" * 16,
        "name": "a.zip",
        "owner": "ann",
        "state": state,
        "cancelling": False,
        "model_version": "fake/1",
        "model_version_id": 1,
        "threshold": 0.5,
        "thresholds": {},
        "each_slice_a_patient": False,
        "each_slice_a_series": False,
        "one_patient_for_all": False,
        "several_scans": False,
        "model_note": "",
        "notice": "",
        "recipe": "lung-224-v1",
        "priority": 0,
        "counts": counts,
        "ood": None,
        "stages": {
            "total": total,
            "total_known": total_known,
            "read": counts["received"],
            "done": done,
            "uploads": 1,
            "unpacked": unpacked,
            "dicomdirs": 0,
        },
        "state_text": f"{state}, nothing predicted" if nothing_predicted else state,
        "nothing_predicted": nothing_predicted,
        "rejections": {},
        "rate": 0.0,
        "eta_seconds": None,
        "created_at": START,
        "started_at": None if state == "queued" else START,
        "first_result_at": None,
        "finished_at": END if ended else None,
        "retried_at": None,
        "error": None,
        "warning": None,
    }
    return JobView(**facts | values)


@pytest.mark.parametrize(
    ("view", "states"),
    [
        (job(), ["done", "waiting", "waiting", "waiting"]),
        (job("running", counts={"open": 2}), ["done", "active", "waiting", "waiting"]),
        (job("running", counts={"open": 2, "predicted": 1}), ["done", "active", "active", "waiting"]),
        (job("running", unpacked=1, counts={"open": 2, "predicted": 2}), ["done", "done", "active", "waiting"]),
        (job("finished", unpacked=1, counts={"predicted": 4}), ["done"] * 4),
        (job("finished", unpacked=1, counts={"rejected": 4}), ["done", "done", "stopped", "stopped"]),
        (job("cancelled", unpacked=1, counts={"predicted": 2, "cancelled": 2}), ["done", "done", "stopped", "stopped"]),
        (job("failed", counts={"predicted": 2}), ["done", "stopped", "stopped", "stopped"]),
    ],
)
def test_stages_of_a_job(view: JobView, states: list[str]) -> None:
    assert [stage.state for stage in job_stages(view)] == states


def test_total_that_is_not_known_is_not_shown() -> None:
    view = job("running", total=3, total_known=False, counts={"open": 2, "predicted": 1})
    assert job_stages(view)[1].text == "3 read"
    assert milestone(view) == "The job is running."


def test_stages_of_a_job_say_how_far_each_is() -> None:
    received, unpacking, predicting, end = job_stages(job("running", counts={"open": 2, "predicted": 1}))
    assert received == Stage("Received", "1 file", "done")
    assert unpacking == Stage("Unpacking", "3 of 4 read", "active")
    assert predicting == Stage("Predicting", "1 slice", "active")
    assert end == Stage("Finished", "–", "waiting")
    assert job_stages(job("cancelled"))[-1] == Stage("Cancelled", "1 min 30 s", "stopped")


def test_time_between_the_end_of_a_job_and_its_retry_is_not_counted() -> None:
    view = job("finished", unpacked=1, counts={"predicted": 4}, retried_at=END)
    assert job_stages(view)[-1] == Stage("Finished", "after a retry", "done")


def test_cancelled_slice_is_not_done() -> None:
    view = job("cancelled", unpacked=1, counts={"predicted": 1, "rejected": 1, "cancelled": 2})
    assert view.settled == 2


def test_segments_of_a_bar_follow_each_other_and_leave_empty_outcomes_out() -> None:
    view = job("running", counts={"predicted": 3, "positive": 1, "cancelled": 1})
    shown = [(part.kind, part.amount, part.start, part.width) for part in segments(view)]
    assert shown == [("positive", 1, 0, 25), ("negative", 2, 25, 50), ("cancelled", 1, 75, 25)]
    assert [part.title for part in segments(view)] == ["COVID", "non-COVID", "Cancelled"]
    blind = [(part.title, part.amount, part.start, part.width) for part in segments(view, blind=True)]
    assert blind == [("Predicted", 3, 0, 75), ("Cancelled", 1, 75, 25)]


def test_milestone_changes_at_each_tenth() -> None:
    counts = {"predicted": 15, "open": 85}
    assert milestone(job("running", total=100, counts=counts)) == "10 percent of 100 slices done."
    assert milestone(job("running", total=200, counts=counts)) == "The job is running."
    assert milestone(job("running", total=1, counts={"predicted": 1})) == "100 percent of 1 slice done."
    assert milestone(job("finished", counts={"rejected": 4})) == "The job is finished, nothing predicted."


@pytest.mark.parametrize(("ood", "much"), [(None, False), (0, False), (1, False), (2, True)])
def test_much_is_out_of_distribution_from_a_tenth_on(ood: int | None, much: bool) -> None:
    assert has_much_ood(job("finished", counts={"predicted": 15}, ood=ood)) is much


def changed(**values: Any) -> RunView:
    return RUN.model_copy(update=values)


RUN = RunView(
    id=1,
    name="site",
    preset="default",
    state="running",
    stage="whole",
    progress=0.5,
    message="",
    live={"stage": 1},
    dataset="site/1",
    dataset_deleted=False,
    seed=7,
    config={"stages": [{"name": "head", "epochs": 20}, {"name": "whole", "epochs": 1, "size": 224}]},
    allowed_leaks=[],
    environment={},
    error=None,
    cancelling=False,
    stopping=False,
    stopped_early=False,
    from_version=None,
    model_version=None,
    created_by=None,
    created_at=START,
    started_at=START,
    finished_at=None,
)


@pytest.mark.parametrize(
    ("run", "states"),
    [
        (changed(live={}), []),
        (changed(live={"stage": 0}), ["active", "waiting", "waiting"]),
        (RUN, ["done", "active", "waiting"]),
        (changed(progress=0.93), ["done", "done", "active"]),
        (changed(progress=0.93, state="failed"), ["done", "done", "stopped"]),
        (changed(progress=0.93, live={"stage": 0}, stopped_early=True), ["stopped", "waiting", "active"]),
        (changed(state="finished", live={"stage": 0}, stopped_early=True), ["stopped", "waiting", "done"]),
        (changed(state=JobState.FAILED), ["done", "stopped", "waiting"]),
        (changed(state="finished"), ["done", "done", "done"]),
    ],
)
def test_stages_of_a_run(run: RunView, states: list[str]) -> None:
    assert [stage.state for stage in run_stages(run)] == states


def test_stages_of_a_run_say_what_they_train() -> None:
    head, whole, _ = run_stages(RUN)
    assert (head.title, head.text, whole.text) == ("head", "20 epochs", "1 epoch at 224 px")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (1, "about 5 s"), (43, "about 45 s"), (176, "about 3 min"), (5000, "about 1 h 20 min")],
)
def test_estimated_time_is_no_finer_than_it_is_known(seconds: float | None, words: str) -> None:
    assert filters.about(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(-5, "low priority"), (5, "high priority"), (-3, "low priority (-3)"), (0, "normal priority")],
)
def test_priority_has_the_words_of_the_submit_page(number: int, words: str) -> None:
    assert filters.priority(number) == words


def test_slices_that_a_rule_set_apart_are_counted_beside_other_rejections() -> None:
    rejections = {"format": 2, "localizer": 3, "bolus_tracking": 20, "uid_conflict": 4}
    apart = {"localizer": 3, "bolus_tracking": 20}
    assert by_rule(job("finished", rejections=rejections)) == (apart, {"format": 2, "uid_conflict": 4})
