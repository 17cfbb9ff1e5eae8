"""The documentation: commands exist with the options they are given, links lead somewhere, the reference is current."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from wsss.cli import STAGES

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
RUN = [page for page in PAGES if "<!-- run" in page.read_text()]
FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
PIECE = re.compile(r"<!--.*?-->|^ *```\w*\n.*?^ *```|(?:^ {4}[^\n]*\n)+", re.DOTALL | re.MULTILINE)
RUNS = re.compile(r"^\s*(?:python |wsss |scripts/|bash |torchrun |srun |pip |ray )", re.MULTILINE)
MARK = re.compile(r"<!-- run -->|<!-- not run: \S.*-->")
COMMAND = re.compile(r"(?:python -m wsss\.|\bwsss )(\w+)((?:\\\n|[^\n`|])*)")


def script(name: str) -> ModuleType:
    """Import a file of scripts/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """Return the options of every stage."""
    make = script("make_options")
    return {stage: {action.dest for action in make.stage_parser(stage)._actions} for stage in STAGES}


def commands(page: Path) -> list[tuple[str, str]]:
    """Return (stage, its words) of every command in a page's code: fenced, inline or indented."""
    text = page.read_text()
    code = FENCED.findall(text)
    plain = FENCED.sub("", text)
    code += re.findall(r"`([^`\n]+)`", plain) + re.findall(r"(?:^    .*\n)+", plain, re.MULTILINE)
    return [(stage, rest.replace("\\\n", " ")) for own in code for stage, rest in COMMAND.findall(own)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_a_stage_with_options_it_has(page: Path, flags: dict[str, set[str]]) -> None:
    for stage, rest in commands(page):
        if stage == "STAGE":
            continue
        assert stage in STAGES, f"{page.name}: wsss {stage}{rest}"
        words = shlex.split(rest.split("#")[0].replace("'", " ").replace('"', " "))
        for word in words:
            if word.startswith("--"):
                name = word[2:].split("=")[0].replace("-", "_").rstrip(".,;:)")
                assert name in flags[stage], f"{page.name}: wsss {stage}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_reference_of_options_is_made_from_this_code() -> None:
    found = (ROOT / "docs/options.md").read_text()
    assert found == script("make_options").page(), "run: python scripts/make_options.py"


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_is_replaced_in_a_block_is_there(page: Path) -> None:
    assert script("run_docs").script_of(page.read_text())


def test_marked_blocks_are_found_and_changed() -> None:
    page = "```bash\nno\n```\n<!-- run\nhidden\n-->\n"
    page += "<!-- run -->\n<!-- run replace: big => small -->\n```bash\nbig\n```\n"
    run_docs = script("run_docs")
    assert run_docs.script_of(page) == "hidden\n\nsmall\n"
    with pytest.raises(ValueError, match="no 'x' to replace"):
        run_docs.script_of("<!-- run -->\n<!-- run replace: x => y -->\n```bash\nbig\n```")
    with pytest.raises(ValueError, match="no ```bash block"):
        run_docs.script_of("<!-- run -->\ntext")


def unmarked(text: str) -> list[str]:
    """Return the code blocks, fenced or indented, that hold a command and have no mark right before them."""
    found, marked, end = [], False, 0
    for piece in PIECE.finditer(text):
        marked = marked and not text[end : piece.start()].strip()
        end = piece.end()
        if piece[0].startswith("<!--"):
            marked = marked or MARK.fullmatch(piece[0]) is not None
            continue
        if RUNS.search(piece[0]) and not marked:
            found.append(piece[0])
        marked = False
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_commands_is_run_or_says_why_not(page: Path) -> None:
    assert unmarked(page.read_text()) == []


def test_blocks_without_a_mark_are_found() -> None:
    fenced, indented = "```bash\nwsss train\n```", "    x = 1\n    python a.py\n"
    assert unmarked(f"<!-- run\n    wsss hidden\n-->\n{fenced}\n\n{indented}") == [fenced, indented]
    assert unmarked(f"<!-- run -->\n\ntext\n{fenced}") == [fenced]
    assert unmarked(f"<!-- not run: -->\n{fenced}") == [fenced]
    assert unmarked(f"<!-- run -->\n<!-- run replace: a => b -->\n{fenced}") == []
    assert unmarked(f"<!-- not run: needs the network -->\n{fenced}") == []
    assert unmarked("```python\nimport wsss\n```") == []


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    assert script("run_docs").run(page, tmp_path) == 0
