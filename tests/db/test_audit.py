"""The audit trail: an event is written with what it states, is listed, and cannot be changed unnoticed once sealed."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, select, update

from db.access import accounts, audit
from db.access.audit import Action, Actor, Filter
from db.database import read_scope, session_scope
from db.models import AuditEvent, AuditSeal
from db.paging import BadCursor
from db.settings import Settings
from worker import sweep

EVE = Actor("eve", "session", "192.0.2.7")
ANOTHER_TIME = datetime(2026, 1, 2, tzinfo=UTC)


def add(*objects: str, action: Action = Action.JOB_OPEN, actor: Actor = EVE) -> None:
    """Record an event for each object, each in its own transaction."""
    for name in objects:
        with session_scope() as s:
            audit.record(s, action, name, actor=actor)


def listed(wanted: Filter, cursor: str | None = None, limit: int = 10) -> list[str]:
    """The objects of the events on a page."""
    with read_scope() as s:
        return [event.object for event in audit.list_events(s, wanted, cursor, limit).items]


def seal() -> AuditSeal | None:
    """Seal what is not sealed yet."""
    with session_scope() as s:
        return audit.seal(s)


def verified() -> audit.Verified:
    """The result of checking all seals."""
    with read_scope() as s:
        return audit.verify(s)


def test_event_is_kept_only_if_what_it_states_is(database: Settings) -> None:
    audit.act_as(None)  # a test before this one may have acted as an operator
    with session_scope() as s:
        accounts.create_user(s, "eve", None)
        s.rollback()
    assert listed(Filter()) == []
    with session_scope() as s:
        accounts.create_user(s, "eve", None)
    with read_scope() as s:
        (event,) = audit.list_events(s, Filter(), None, 10).items
    assert (event.actor, event.via, event.action, event.object, event.detail) == (
        None,
        "a worker",
        "user.add",
        "user eve",
        "user",
    )


def test_events_are_listed_by_actor_action_and_object(database: Settings) -> None:
    add("job a", "job b")
    add("job a", action=Action.JOB_DELETE, actor=Actor("bob", "token 3"))
    add("user x", action=Action.USER_ADD)
    assert listed(Filter()) == ["user x", "job a", "job b", "job a"]
    assert listed(Filter(actor="bob")) == ["job a"]
    assert listed(Filter(action="job")) == ["job a", "job b", "job a"]
    assert listed(Filter(action="job.open")) == ["job b", "job a"]
    assert listed(Filter(action="jo")) == listed(Filter(action="%")) == []
    assert listed(Filter(object="job a", actor="eve")) == ["job a"]


def test_pages_follow_each_other(database: Settings) -> None:
    add(*(f"job {number}" for number in range(5)))
    with read_scope() as s:
        page = audit.list_events(s, Filter(action="job"), None, 2)
        seen = [event.object for event in page.items]
        while page.next_cursor:
            page = audit.list_events(s, Filter(action="job"), page.next_cursor, 2)
            seen += [event.object for event in page.items]
        assert seen == [f"job {number}" for number in (4, 3, 2, 1, 0)]
        with pytest.raises(BadCursor):
            audit.list_events(s, Filter(), "nonsense", 2)


def test_seals_match_what_was_written(database: Settings) -> None:
    assert seal() is None
    add("job a", "job b")
    first = seal()
    assert first is not None
    assert first.events == 2
    assert seal() is None
    add("job c")
    assert verified() == audit.Verified(1, 2, 1, first.id, first.digest, None)
    second = seal()
    assert second is not None
    assert second.digest != first.digest
    assert verified() == audit.Verified(2, 3, 0, second.id, second.digest, None)


@pytest.mark.parametrize("column", ["at", "actor", "via", "address", "action", "object", "detail"])
def test_change_of_a_sealed_event_is_found(database: Settings, column: str) -> None:
    add("job a")
    seal()
    add("job b")
    second = seal()
    assert second is not None
    with session_scope() as s:
        value = ANOTHER_TIME if column == "at" else "x"
        s.execute(update(AuditEvent).where(AuditEvent.object == "job b").values({column: value}))
    assert verified().broken == second.id


def test_missing_event_or_seal_is_found(database: Settings) -> None:
    add("job a", "job b")
    first = seal()
    add("job c")
    second = seal()
    assert first is not None
    assert second is not None
    with session_scope() as s:
        s.execute(delete(AuditEvent).where(AuditEvent.object == "job a"))
    assert verified().broken == first.id
    with session_scope() as s:
        s.execute(delete(AuditEvent).where(AuditEvent.seal_id == first.id))
        s.execute(delete(AuditSeal).where(AuditSeal.id == first.id))
    assert verified().broken == second.id


def test_seals_that_were_made_anew_do_not_match_the_log(database: Settings) -> None:
    add("job a", "job b")
    first = seal()
    assert first is not None
    with session_scope() as s:
        s.execute(update(AuditEvent).values(seal_id=None))
        s.execute(delete(AuditSeal))
        s.execute(delete(AuditEvent).where(AuditEvent.object == "job a"))
    again = seal()
    assert again is not None
    with read_scope() as s:
        assert audit.verify(s).broken is None
        assert audit.verify(s, {again.id: again.digest}).broken is None
        assert audit.verify(s, {first.id: first.digest}).broken == first.id
        assert audit.verify(s, {again.id: again.digest, 7: "0" * 64}).broken == 7


def test_events_are_listed_by_what_the_actor_was_signed_in_with(database: Settings) -> None:
    add("user x", actor=Actor(None, "root at the command line"))
    add("job a")
    assert listed(Filter(actor="root at the command line")) == ["user x"]


def test_one_seal_covers_a_limited_number_of_events(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_SEALED", 2)
    add("job a", "job b", "job c")
    assert [made.events for made in (seal(), seal()) if made] == [2, 1]
    assert verified().broken is None


def test_sweeper_seals_and_logs_the_digest(database: Settings, caplog: pytest.LogCaptureFixture) -> None:
    add("job a")
    with caplog.at_level("INFO"):
        sweep.sweep()
    (line,) = [record for record in caplog.records if record.getMessage() == "audit trail sealed"]
    with read_scope() as s:
        made = s.scalars(select(AuditSeal)).one()
    assert vars(line)["digest"] == made.digest == verified().digest
