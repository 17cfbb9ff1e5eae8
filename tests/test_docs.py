"""The documentation: commands exist with the options they are given, links lead somewhere, the reference is current."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wsss.cli import STAGES, options_of
from wsss.options.command_line import parser_of

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
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
    flags: dict[str, set[str]] = {}
    for stage in STAGES:
        module = options_of(stage)
        for task in getattr(module, "TASKS", [""]):
            parser = parser_of(stage, module, task)
            flags.setdefault(stage, set()).update(action.dest for action in parser._actions)
    return flags


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


def test_no_text_names_our_package_on_an_index_that_does_not_have_it() -> None:
    files = [*PAGES, *(ROOT / "wsss").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    wrong = re.compile(r"pypi\.org/project/wsss|install (?:-U |--upgrade )?['\"]?wsss\b")
    assert [path.name for path in files if wrong.search(path.read_text())] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_reference_of_options_is_made_from_this_code() -> None:
    found = (ROOT / "docs/options.md").read_text()
    assert found == script("make_options").page(), "run: python scripts/make_options.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_commands_is_run_or_says_why_not(page: Path) -> None:
    run_docs = script("run_docs")
    run_docs.script_of(page.read_text(), run_docs.plan_of(page))
    assert "<!--" not in page.read_text()  # what readers of the source should not have to read past


def test_blocks_are_run_replaced_and_skipped_in_their_order() -> None:
    script_of = script("run_docs").script_of
    page = "```bash\n# first\nwsss big\n```\ntext\n\n    python a.py\n\n```python\nimport wsss\n```\n"
    plan = "draw\n#: replace big => small\n#: run wsss big\n#: skip python a.py\n#: reason it takes hours\n"
    assert script_of(page, plan) == "draw\n# first\nwsss small\n\n"
    for wrong, message in (
        ("#: run python a.py", "next block is 'wsss big'"),
        ("#: replace x => y\n#: run wsss big", "no 'x' to replace"),
        ("#: run wsss big", "whether this block is run:\n    python a.py"),
        ("#: walk wsss big", "none of replace"),
        (plan + "#: run wsss big", "next block is 'none'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            script_of(page, wrong)


@pytest.mark.parametrize("name", ["demo", "own_images", "teams"])
def test_notebooks_are_made_from_the_tutorials_and_hold_their_commands(name: str) -> None:
    """The same commands are run as those of the tutorial, see below."""
    page, run_docs = ROOT / f"docs/tutorial_{name}.md", script("run_docs")
    text = (ROOT / f"docs/notebooks/{name}.ipynb").read_text()
    assert text == script("make_notebooks").as_text(script("make_notebooks").notebook(page)), (
        "run: python scripts/make_notebooks.py"
    )
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(cell.startswith("%%bash -e\n") for cell in cells)
    skipped = set(re.findall(r"^#: skip (.*)$", run_docs.plan_of(page), re.MULTILINE))
    blocks = [block.strip() for first, block in run_docs.command_blocks(page.read_text()) if first not in skipped]
    assert [cell.removeprefix("%%bash -e\n") for cell in cells[1:]] == blocks
    for target in re.findall(r"\]\((\.\./[^)#]*)", text):
        assert (ROOT / "docs/notebooks" / target).exists()


@pytest.mark.slow
def test_the_cells_of_the_notebook_of_the_demo_run(tmp_path: Path) -> None:
    cells = json.loads((ROOT / "docs/notebooks/demo.ipynb").read_text())["cells"]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    for source in code[1:]:  # after the installation
        env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        assert subprocess.run(["bash", "-e", "-c", "".join(source[1:])], cwd=tmp_path, env=env).returncode == 0
    assert (tmp_path / "demo/report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if script("run_docs").plan_of(p)], ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    assert script("run_docs").run(page, tmp_path) == 0


def write_seeds(folder: Path, fields: int | str, figures: dict[str, list[float]]) -> None:
    for seed in range(3):
        scores: dict[str, Any] = {}
        for key, values in figures.items():
            *parents, last = key.split(".")
            place = scores
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = values[seed]
        (folder / f"{fields}-{seed}").mkdir(parents=True)
        (folder / f"{fields}-{seed}/scores.json").write_text(json.dumps(scores))


def test_the_figures_of_the_pages_are_those_of_three_measured_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = script("check_readme_figures")
    assert figures.main([]) == 0
    pages = tmp_path / "pages"
    (pages / "docs").mkdir(parents=True)
    for name, old, new in (("README.md", "**.952**", "**.953**"), ("docs/quality.md", "", "")):
        (pages / name).write_text((ROOT / name).read_text().replace(old, new))
    assert figures.main(["--pages", str(pages)]) == 1
    said = "README.md, fields 400, cells.mean_ap (mean): the page says .953, 3 seeds give 0.9517"
    assert said in capsys.readouterr().out

    monkeypatch.setattr(figures, "RECORD", tmp_path / "measured.json")
    (tmp_path / "measured.json").write_text((ROOT / "docs/measured.json").read_text())
    seeds = tmp_path / "seeds"
    on_record = json.loads((ROOT / "docs/measured.json").read_text())[figures.ON]["figures"]
    known = on_record["400"]
    for fields in (25, 50, 100, 200, 400):
        write_seeds(seeds, fields, on_record[str(fields)])
    for name, aps in (("one-class", [0.968, 0.966, 0.967]), ("hard", [0.960, 0.959, 0.962])):
        write_seeds(seeds, name, {"cells.mean_ap": aps})
    assert figures.main(["--scores", str(seeds)]) == 0
    assert "not measured" not in capsys.readouterr().out
    shutil.rmtree(seeds / "25-1")
    assert figures.main(["--scores", str(seeds)]) == 1
    assert "fields 25, cells.mean_ap (max): 2 seeds were measured, expected 3" in capsys.readouterr().out
    shutil.rmtree(seeds / "100-0")
    shutil.rmtree(seeds / "50-2")
    write_seeds(seeds / "more", 50, dict.fromkeys(known, [0.5] * 3))
    (seeds / "more/50-2").rename(seeds / "50-2")
    assert figures.main(["--scores", str(seeds), "--write"]) == 1
    assert (
        "README.md, fields 50, cells.mean_ap (mean): the page says .91, 3 seeds give 0.7769" in capsys.readouterr().out
    )
    written = json.loads((tmp_path / "measured.json").read_text())[figures.ON]["figures"]
    assert written["50"]["cells.mean_ap"] == [0.9127, 0.918, 0.5]
    assert written["400"] == known
    (tmp_path / "measured.json").write_text(json.dumps({figures.ON: {"figures": {"400": known}}}))
    assert figures.main([]) == 1
    assert "fields 25, cells.mean_ap (mean): 0 seeds were measured, expected 3" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["docs/reliability.md", "scripts/stress/checks.py"])
def test_the_tests_that_reliability_names_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    paths = set(re.findall(r"(?:tests/)?((?:\w+/)*test_\w+\.py)", text))
    assert paths
    assert [path for path in paths if not (ROOT / "tests" / path).is_file()] == []
