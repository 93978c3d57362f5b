"""`ctbatch datasets` as an operator runs it, with a real database, storage and the worker's function."""

import json
import threading

import pytest
from click.testing import CliRunner

from cli.errors import JobFailed, Unavailable
from cli.local.datasets import follow_dataset
from cli.main import cli
from db import database as base
from db.database import read_scope, session_scope
from db.datasets import datasets
from db.ledger import leases
from db.models import Dataset, Work
from db.settings import get_settings
from tests.builders.files import png, write_zip
from worker.datasets.build import build_next
from worker.received_files import receive_file

HEAD = "file,label,group\n"


@pytest.fixture
def environment(database) -> dict[str, str]:
    """The database of this test; no broker answers there, so hints are lost."""
    return {
        "CTBATCH_HOME": str(database.home),
        "DATABASE_URL": database.database,
        "CELERY_BROKER_URL": database.broker_url,
    }


@pytest.fixture
def operate(environment, monkeypatch, tmp_path):
    """Run a command in this process, on the database of this test; a tenth of a second where a new one takes two."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    monkeypatch.setattr("cli.local.follow.POLL_SECONDS", 0.05)
    yield lambda *words: CliRunner().invoke(cli, list(map(str, words)))
    get_settings.cache_clear()


@pytest.fixture
def ingest_worker(database):
    """A thread that builds what is asked for until the test ends."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            build_next("w") or ended.wait(0.1)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.fixture
def folder(tmp_path):
    """Three groups of two slices in each class, in class folders."""
    for at, name in enumerate(("COVID", "non-COVID")):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for n in range(6):
            (tmp_path / "scans" / name / f"{n}.png").write_bytes(png(n + 10 * at))
    return tmp_path / "scans"


def lines(folder) -> str:
    """The CSV of the folder: two slices a group."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
    return HEAD + "".join(
        f"{name},{name.partition('/')[0]},{name[0]}{int(name[-5]) // 2}\n" for name in names
    )  # fmt: skip


@pytest.mark.slow
def test_dataset_of_a_folder_is_shown_listed_and_split(ctbatch, operate, environment, ingest_worker, folder):
    (folder / "groups.csv").write_text(lines(folder))
    made = ctbatch("datasets", "create", "site", "--from", folder, "--json", env=environment)
    assert made.returncode == 0, made.stderr
    view = json.loads(made.stdout)
    assert (view["name"], view["state"], view["size"], view["groups"]) == ("site/1", "ready", 12, 6)
    assert view["report"]["labels_from"] == "groups.csv among the files"
    assert json.loads(operate("datasets", "show", "site", "--json").stdout) == view
    [listed] = json.loads(operate("datasets", "ls", "--json").stdout)
    assert listed["sha256"] == view["sha256"]
    rows = json.loads(operate("datasets", "slices", "site/1", "--json").stdout)
    assert [row["row"] for row in rows] == list(range(12))
    assert set(rows[0]) == {"row", "label", "group", "name"}
    split = json.loads(operate("datasets", "split", "site/1", "--json").stdout)
    assert split["parts"] == {
        part: {"COVID": 2, "non-COVID": 2, "groups": 2} for part in ("train", "validation", "test")
    }
    assert (split["rule"], split["seed"], split["leaks"]) == ("groups", 7, {})
    assert json.loads(operate("datasets", "split", "site", "--seed", 7, "--json").stdout)["id"] == split["id"]


def test_report_of_a_dataset_warns_of_identical_slices(operate, ingest_worker, folder, tmp_path):
    archive = write_zip(tmp_path / "covid.zip", {"twin.png": png(10), "text.png": b"no picture"})
    made = operate("datasets", "create", "site", "--from", folder, archive)
    assert made.exit_code == 0, made.stderr
    cells = dict(line.split("\t")[:2] for line in made.stdout.splitlines())
    assert cells["labels from"] == "class folders"
    assert (cells["slices"], cells["  COVID"], cells["left out: format"]) == ("13", "7", "1")
    assert cells["identical"] == "0 slices within a class, 2 across"
    assert "shortcut: width × height" in cells
    assert "warning: 2 slices have the same pixels as one of the other class" in made.stderr


def test_labels_option_takes_precedence_over_a_csv_in_the_folder(operate, ingest_worker, folder, tmp_path):
    (folder / "groups.csv").write_text("broken")
    (tmp_path / "mine.csv").write_text(lines(folder))
    made = operate("datasets", "create", "site", "--from", folder, "--labels", tmp_path / "mine.csv", "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["report"]["labels_from"] == "the CSV that was sent"


@pytest.mark.parametrize("sources", [["scans/mine.CSV"], ["mine.CSV", "scans"]])
def test_csv_among_the_sources_labels_the_other_sources_or_its_own_folder(
    operate, ingest_worker, folder, tmp_path, sources
):
    (tmp_path / sources[0]).write_text(lines(folder))
    made = operate("datasets", "create", "site", *(word for path in sources for word in ("--from", path)), "--json")
    view = json.loads(made.stdout)
    assert view["report"]["labels_from"] == "the CSV that was sent"
    assert view["counts"] == {"COVID": 6, "non-COVID": 6, "rejected": 0}
    assert view["groups"] == 6


def test_archives_in_folders_named_for_their_class_are_labelled(operate, ingest_worker, folder, tmp_path):
    for at, name in enumerate(("COVID", "non-COVID")):
        write_zip(folder / name / "p9.zip", {f"{n}.png": png(100 + 10 * at + n) for n in range(2)})
    sent = ["--from", folder / "COVID", "--from", folder / "non-COVID"]
    view = json.loads(operate("datasets", "create", "site", *sent, "--json").stdout)
    assert view["counts"] == {"COVID": 8, "non-COVID": 8, "rejected": 0}
    slices = operate("datasets", "slices", "site").stdout
    assert "COVID/p9/0.png" in slices
    assert "non-COVID/p9/0.png" in slices
    together = json.loads(operate("datasets", "create", "site", "--from", folder, "--json").stdout)
    assert (together["counts"], together["groups"]) == (view["counts"], view["groups"])


def test_folders_of_one_name_are_labelled_apart(operate, ingest_worker, folder, tmp_path):
    """Site A has folders. Site B has an archive with folders of both classes, and one with folders of patients."""
    site_b = tmp_path / "b"
    site_b.mkdir()
    both = {f"{name}/{n}.png": png(100 + 10 * at + n) for at, name in enumerate(("COVID", "normal")) for n in range(2)}
    write_zip(site_b / "COVID.zip", both | {"masks/1.png": png(200)})
    write_zip(site_b / "non-COVID.zip", {f"p6/{n}.png": png(120 + n) for n in range(2)})
    sent = [folder / "COVID", folder / "non-COVID", site_b / "COVID.zip", site_b / "non-COVID.zip"]
    view = json.loads(operate("datasets", "create", "b", *[f"--from={path}" for path in sent], "--json").stdout)
    assert view["counts"] == {"COVID": 8, "non-COVID": 10, "rejected": 1}


def test_archive_packed_from_a_class_folder_takes_no_label_from_the_files_beside_it(operate, ingest_worker, folder):
    write_zip(folder / "COVID" / "batch2.zip", {f"COVID/p9/{n}.png": png(100 + n) for n in range(2)})
    sent = ["--from", folder / "COVID", "--from", folder / "non-COVID"]
    view = json.loads(operate("datasets", "create", "site", *sent, "--json").stdout)
    assert view["counts"] == {"COVID": 8, "non-COVID": 6, "rejected": 0}


def test_leak_of_a_given_split_is_reported(operate, ingest_worker, folder, tmp_path):
    parts = ["train", "train", "validation", "validation", "test", "train"]
    rows = [f"{line},{parts[int(line.partition('.')[0][-1])]}" for line in lines(folder).splitlines()[1:]]
    (tmp_path / "mine.csv").write_text("file,label,group,split\n" + "\n".join(rows))
    assert operate("datasets", "create", "s", "--from", folder, "--labels", tmp_path / "mine.csv").exit_code == 0
    split = operate("datasets", "split", "s")
    assert split.exit_code == 0
    assert split.stdout.splitlines()[1].split("\t") == ["train", "3", "3", "4"]
    assert "leak shared-groups: 2, for example C2: test, train" in split.stderr


def test_dataset_that_cannot_be_built_fails_with_a_reason(operate, ingest_worker, folder):
    made = operate("datasets", "create", "site", "--from", folder / "COVID" / "0.png")
    assert made.exit_code == 1
    assert "dataset site/1 failed: none of 1 files has a label" in made.stderr
    assert "none of 1 files has a label" in operate("datasets", "show", "site").stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "either --from PATH or --job JOB"),
        (["--from", "scans", "--job", "x"], "either --from PATH or --job JOB"),
        (["--job", "x", "--labels", "bad.csv"], "--labels goes with --from"),
        (["--from", "bad.csv", "--labels", "bad.csv"], "there is more than one CSV of labels"),
        (["--from", "scans", "--labels", "bad.csv"], "line 2 of the labels file: the label 'ill' is neither"),
        (["--from", "cut.zip"], "cut.zip is refused: "),
        (["--from", "empty.png"], "no file that could be an image"),
        (["--from", "nowhere"], "does not exist"),
        (["--job", "nothing"], "there is no job nothing"),
    ],
)
def test_wrong_sources_are_refused_and_nothing_is_queued(operate, folder, tmp_path, words, why):
    (tmp_path / "bad.csv").write_text(HEAD + "0.png,ill,p\n")
    (tmp_path / "empty.png").touch()
    whole = write_zip(tmp_path / "cut.zip", {"a.png": png(1)})
    whole.write_bytes(whole.read_bytes()[:-30])
    refused = operate("datasets", "create", "site", *words)
    assert refused.exit_code == 2, refused.stderr
    assert why in refused.stderr
    with read_scope() as session:
        assert datasets.list_datasets(session) == []


def test_invalid_name_is_refused(operate, folder):
    refused = operate("datasets", "create", "a/b", "--from", folder, "--no-wait")
    assert refused.exit_code == 2
    assert "a dataset's name has 1 to 64" in refused.stderr


def test_queued_dataset_cannot_be_split(operate, folder):
    made = operate("datasets", "create", "site", "--from", folder, "--no-wait")
    assert (made.exit_code, made.stdout) == (0, "site/1\n")
    split = operate("datasets", "split", "site")
    assert (split.exit_code, "is not ready" in split.stderr) == (2, True)
    assert operate("datasets", "split", "other").exit_code == 3


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seed_out_of_range_is_refused(operate, seed):
    split = operate("datasets", "split", "site", "--seed", seed)
    assert (split.exit_code, "is not in the range 0<=x<=2147483647" in split.stderr) == (2, True)
    assert operate("datasets", "show", "site/2").exit_code == 3


def test_dataset_that_no_worker_takes_ends_the_wait(database, monkeypatch):
    monkeypatch.setattr("cli.local.follow.UNCLAIMED_SECONDS", 0.1)
    monkeypatch.setattr("cli.local.follow.POLL_SECONDS", 0.05)
    file = receive_file("scan.png", [png(1)])
    with session_scope() as session:
        label = datasets.create_dataset(session, name="site", user=None, files=[file]).label
    with pytest.raises(Unavailable, match="start one: `ctbatch worker evaluation`"):
        follow_dataset(label)


def test_dataset_that_waits_for_disk_space_ends_the_wait_with_that_reason(database, monkeypatch):
    monkeypatch.setattr("cli.local.follow.UNCLAIMED_SECONDS", 0.1)
    monkeypatch.setattr("cli.local.follow.POLL_SECONDS", 0.05)
    file = receive_file("scan.png", [png(1)])
    with session_scope() as session:
        label = datasets.create_dataset(session, name="site", user=None, files=[file]).label
    base.use(database.model_copy(update={"reserve_bytes": 2**62}))
    with pytest.raises(Unavailable, match="CTBATCH_RESERVE_BYTES"):
        follow_dataset(label)


@pytest.mark.parametrize("how", ["another is read", "it was put off"])
def test_dataset_that_has_to_wait_is_waited_for(database, monkeypatch, how):
    monkeypatch.setattr("cli.local.follow.UNCLAIMED_SECONDS", 0.0)
    file = receive_file("scan.png", [png(1)])
    with session_scope() as session:
        first, second = (datasets.create_dataset(session, name="site", user=None, files=[file]) for _ in range(2))
    with session_scope() as session:
        _, claim = datasets.claim_dataset(session, "w")
        if how == "it was put off":
            leases.put_off(session, Dataset, claim)
    waiting = second if how == "another is read" else first
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 5:
            with session_scope() as session:
                session.get_one(Dataset, waiting.id).state = Work.FAILED
                session.get_one(Dataset, waiting.id).error = "long enough"

    monkeypatch.setattr("cli.polling.sleep", pause)
    with pytest.raises(JobFailed, match="long enough"):
        follow_dataset(waiting.label)
    assert len(pauses) == 5


def test_missing_database_is_reported_before_files_are_copied(ctbatch, folder, tmp_path):
    env = {"CTBATCH_HOME": str(tmp_path / "empty"), "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}
    made = ctbatch("datasets", "create", "site", "--from", folder, env=env)
    assert made.returncode == 4
    assert "ctbatch db upgrade" in made.stderr
    assert not list((tmp_path / "empty").glob("files/??"))


def built(name: str) -> None:
    with session_scope() as session:
        session.add(Dataset(name=name, number=1, sources=[], state=Work.DONE))


def test_rm_deletes_what_it_can_and_exits_with_the_code_of_the_first_that_it_cannot(operate):
    for name in ("a", "b", "c"):
        built(name)
    with session_scope() as session:
        datasets.find_dataset(session, "b").state = Work.RUNNING
    result = operate("datasets", "rm", "a/1", "b/1", "nosuch/1", "c/1", "--yes")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "dataset a/1 is deleted",
        "Error: dataset nosuch/1: there is no dataset nosuch/1; `ctbatch datasets ls` lists them",
        "dataset c/1 is deleted",
        "Error: dataset b/1: b/1 is being built: delete it when it is built, or when it has failed",
    ]
    assert [view["name"] for view in json.loads(operate("datasets", "ls", "--json").stdout)] == ["b/1"]
    for words in (("datasets", "show", "a/1"), ("datasets", "slices", "a/1"), ("datasets", "rm", "a/1", "--yes")):
        assert operate(*words).exit_code == 3


def test_rm_wants_the_number_of_a_dataset(operate):
    built("a")
    for label in ("a", "1"):
        assert operate("datasets", "rm", label, "--yes").exit_code == 2
    answer = json.loads(operate("datasets", "rm", "a/1", "--yes", "--json").stdout)
    assert answer == {"deleted": ["a/1"]}


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 1), ("", 1)], ids=["yes", "no", "nothing"])
def test_rm_asks_first(operate, answer, left):
    built("a")
    result = CliRunner().invoke(cli, ["datasets", "rm", "a/1"], input=answer)
    assert "Delete dataset a/1? Slices, labels" in result.stderr
    with read_scope() as session:
        assert len(datasets.list_datasets(session)) == left
