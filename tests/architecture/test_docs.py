"""The documents for people name only what exists: files, commands, options, make's targets, settings, codes."""

import ast
import re
from pathlib import Path

import click
import pytest

from cli.main import cli
from db.findings.views import FindingView
from db.ledger.results import Result
from db.ledger.series import SeriesSummary
from db.reasons import REASONS, SLICE_NOTES
from db.settings import Settings

PROJECT = Path(__file__).parents[2]
DOCUMENTS = [*(PROJECT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")), *PROJECT.glob("docs/*.md")]
PACKAGES = ("db", "worker", "training", "web", "cli")
FOLDERS = (*PACKAGES, "tests", "docs", r"\.docker", r"\.ci", r"\.lock")

PLACEHOLDER = re.compile(r"[A-Z/]+|…|-[a-z]")  # of a command in a document: JOB, NAME/NUMBER, a short option
LINK = re.compile(r"\]\(([^)\s]+)\)")
TAKES_A_REASON = {
    "ArchiveRefused",
    "SliceRejected",
    "_reject_those",
    "leave_out",
    "lose_chunk",
    "fail_chunk",
    "_put_off",
    "_close",
    "_give_up",
    "close_upload",
}
PROBLEM = re.compile(r'Problem\(\s*\d{3},\s*"([a-z-]+)"')

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def code_of(document: Path) -> list[str]:
    """The lines of its code blocks and what stands between backticks; comments are cut off."""
    text = document.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0] for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*lines, *re.findall(r"`([^`\n]+)`", prose)]


def commands_of(line: str) -> list[list[str]]:
    """The words after each `ctbatch` of a line of code, up to the end of the command."""
    found = re.findall(r"(?:^|[\s/])ctbatch ([^;|&>\n]*)", line)
    return [re.sub(r'"[^"]*"|\'[^\']*\'', "QUOTED", words).split() for words in found]


def fault_of(words: list[str]) -> str | None:
    """What is wrong with a command, or None: a name that its group does not have, or an option that it does not."""
    command: click.Command = cli
    context = click.Context(cli)
    arguments = list(words)
    while arguments and isinstance(command, click.Group):
        if (word := arguments.pop(0)).startswith("-"):
            return None  # an option of `ctbatch` itself
        if PLACEHOLDER.fullmatch(word):
            return None
        below = command.get_command(context, word)
        if below is None:
            return f"there is no `{word}` in `ctbatch {' '.join(words)}`"
        command, context = below, click.Context(below, parent=context)
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in arguments if word.startswith("--") and word.partition("=")[0] not in options]
    return f"`ctbatch {' '.join(words)}` has no option {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("words", ["nothing", "jobs nothing JOB", "jobs wait JOB --nothing", "submit x --wait --no"])
def test_a_command_that_does_not_exist_is_found(words: str) -> None:
    assert fault_of(words.split()) is not None


@pytest.mark.parametrize("words", ["--help", "jobs wait JOB --strict", "models promote site/1 --reason QUOTED", "up"])
def test_a_command_that_exists_is_let_pass(words: str) -> None:
    assert fault_of(words.split()) is None


@every_document
def test_commands_exist(document: Path) -> None:
    commands = [words for line in code_of(document) for words in commands_of(line)]
    assert [fault for words in commands if (fault := fault_of(words))] == []


@every_document
def test_relative_links_lead_somewhere(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text()) if "://" not in link and not link.startswith("#")]
    assert [link for link in links if not (document.parent / link.partition("#")[0]).exists()] == []


@every_document
def test_files_that_are_named_exist(document: Path) -> None:
    path = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*")
    named = [code for code in code_of(document) if path.fullmatch(code)]
    assert [name for name in named if not (PROJECT / name).exists()] == []


@every_document
def test_targets_of_make_exist(document: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    named = [target for code in code_of(document) for target in re.findall(r"^make ([a-z-]+)", code)]
    assert sorted(set(named) - set(targets)) == []


@every_document
def test_settings_are_known(document: Path) -> None:
    read_by_name = {
        name
        for package in PACKAGES
        for path in (PROJECT / package).rglob("*.py")
        for name in re.findall(r'"(CTBATCH_[A-Z_]+)"', path.read_text())
    }
    known = read_by_name | {f"CTBATCH_{name.upper()}" for name in Settings.model_fields}
    assert sorted(set(re.findall(r"CTBATCH_[A-Z]+(?:_[A-Z]+)*", document.read_text())) - known) == []


def test_every_reason_and_problem_is_explained() -> None:
    text = (PROJECT / "docs" / "bad-inputs.md").read_text()
    problems = {name for path in (PROJECT / "web").rglob("*.py") for name in PROBLEM.findall(path.read_text())}
    assert "archive-refused" in problems
    assert sorted(problems - set(re.findall(r"`([a-z_0-9-]+)`", text))) == []
    assert set(re.findall(r"^\| `([a-z_0-9]+)` \|", text, re.MULTILINE)) == REASONS.keys()


def test_every_row_of_bad_inputs_has_a_test() -> None:
    rows = re.findall(r"^\| (\d{1,2}) \|", (PROJECT / "docs" / "bad-inputs.md").read_text(), re.MULTILINE)
    texts = [path.read_text() for path in (PROJECT / "tests").rglob("test_*.py")]
    tested = {int(number) for text in texts for number in re.findall(r"def test_row_(\d\d)_", text)}
    assert tested == {int(row) for row in rows}


def test_every_note_is_explained() -> None:
    text = (PROJECT / "docs" / "dicom.md").read_text()
    assert sorted(SLICE_NOTES.keys() - set(re.findall(r"`([a-z_0-9]+)`", text))) == []


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Slices", [*Result.model_fields, "reviews", "notice"]),
        ("Findings", [*FindingView.model_fields, "notice"]),
        ("Series", [*SeriesSummary.model_fields]),
    ],
    ids=["slices", "findings", "series"],
)
def test_every_column_of_an_export_is_explained(heading: str, names: list[str]) -> None:
    _, _, section = (PROJECT / "docs" / "exports.md").read_text().partition(f"\n## {heading}\n")
    cells = re.findall(r"^\| (`[^|]*) \|", section.partition("\n## ")[0], re.MULTILINE)
    assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == names


def reason_codes_used() -> set[str]:
    """Every code that some code refuses, leaves out, quarantines or closes an upload with."""
    calls = [
        node
        for package in ("worker", "web", "db")
        for path in (PROJECT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in TAKES_A_REASON
    ]
    texts = [node.value for call in calls for node in ast.walk(call) if isinstance(node, ast.Constant)]
    return {text for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z][a-z_0-9]+", text)}


def test_every_reason_that_is_given_has_its_sentence_and_every_sentence_is_used() -> None:
    assert reason_codes_used() == REASONS.keys()
