"""Which process serves which queue."""

from cli.supervisor.roles import CELERY, command_line
from db.broker import Queue
from db.settings import Settings


def queues_of(role: str) -> set[str]:
    """The queues in the command line of a role's process."""
    words = command_line(role, Settings())
    return set(words[words.index("-Q") + 1].split(","))


def test_every_queue_is_served_by_one_role() -> None:
    served = [queue for role in CELERY for queue in queues_of(role)]
    assert sorted(served) == sorted(Queue)


def test_ingest_serves_no_other_queue_and_has_a_second_process_for_small_jobs() -> None:
    words = command_line("ingest", Settings())
    assert queues_of("ingest") == {Queue.INGEST}
    assert words[words.index("-c") + 1] == "2"
