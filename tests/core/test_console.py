"""What stages tell: lines, nothing, or JSON objects; one way for all of them."""

import ast
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from wsss import cli
from wsss.core import console
from wsss.core.checks import ConfigError, DataError
from wsss.core.console import say
from wsss.options.command_line import make_parser
from wsss.options.parsing import parse

ROOT = Path(__file__).parents[2] / "wsss"
SPEAKERS = ("console.py", "cli.py")


@dataclass(frozen=True)
class Options:
    count: int = 3
    """Things."""


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    yield
    console.set_output(console.OutputOptions(), "wsss")


def stage(argv: Sequence[str] | None) -> int:
    (options,) = parse(make_parser("stage", "", "", Options), argv, Options)
    for _ in console.progress(range(options.count), "things", delay=0):
        time.sleep(0.001)
    say("done", "result", loss=float("nan"), parts=[1, 2])
    if options.count == 0:
        raise DataError("there are no things.")
    return 1


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.run(stage, words)
    return int(ended.value.code or 0)


def test_json_makes_every_line_an_object_and_ends_with_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 1
    shown = capsys.readouterr()
    found = [json.loads(line) for line in shown.out.splitlines()]
    assert {own["stage"] for own in found} == {"stage"}
    assert [own["event"] for own in found if own["event"] != "progress"] == ["result", "end"]
    bar = [own for own in found if own["event"] == "progress"][-1]
    assert (bar["what"], bar["done"], bar["total"]) == ("things", 3, 3)
    assert found[-2]["text"] == "done"
    assert (found[-2]["loss"], found[-2]["parts"]) == (None, [1, 2])
    assert found[-1]["code"] == 1
    assert shown.err == ""


def test_json_tells_an_error_as_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--count", "0") == 2
    shown = capsys.readouterr()
    events = [json.loads(line) for line in shown.out.splitlines()]
    assert [own["event"] for own in events[-2:]] == ["error", "end"]
    assert events[-2]["text"] == "there are no things."
    assert shown.err == "error: there are no things.\n"


def test_quiet_tells_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--quiet") == 1
    assert capsys.readouterr() == ("", "")
    assert run("--quiet", "--count", "0") == 2
    assert capsys.readouterr() == ("", "error: there are no things.\n")


def test_without_either_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert capsys.readouterr().out == "done\n"


def test_what_is_quick_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    list(console.progress(range(5), "quick"))
    assert capsys.readouterr() == ("", "")


def test_a_call_without_known_end_shows_its_time_once_it_is_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with console.waiting("quick"):
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(console, "WAIT", 0.01)
    with console.waiting("export"):
        time.sleep(0.2)
    assert "export: 00:00" in capsys.readouterr().err


def test_a_stage_called_from_a_stage_tells_things_in_the_same_way() -> None:
    run("--json")
    assert console.flags() == ["--json"]
    run()
    assert console.flags() == []


def test_quiet_and_json_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="pass one of them"):
        parse(make_parser("stage", "", "", Options), ["--quiet", "--json"], Options)


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(make_parser("stage", "", "  an example", Options), ["--help"], Options)
    shown = capsys.readouterr().out
    for text in ("exit codes:", "an example", "--quiet", "--json"):
        assert text in shown


def test_everything_is_told_through_the_console() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        printed = [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not printed or path.name in SPEAKERS, f"{path}: say() instead of print() in lines {printed}"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_stdout_that_cannot_be_written_is_one_line(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.set_output(console.OutputOptions(json=as_json), "stage")
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda argv: say("done") or 0)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: stdout cannot be written (No space left on device): ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("is_mistake", [False, True])
def test_a_reader_that_has_gone_ends_a_command_quietly(
    is_mistake: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Sequence[str] | None) -> int:
        if is_mistake:
            raise DataError("a.csv is no table.")
        say("done")
        return 0

    console.set_output(console.OutputOptions(json=True), "stage")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
    assert ended.value.code == (2 if is_mistake else cli.PIPE_CLOSED)
    assert capsys.readouterr().err == ("error: a.csv is no table.\n" if is_mistake else "")
