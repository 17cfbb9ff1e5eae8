"""Write the tutorials as notebooks for Colab, Kaggle and Jupyter: docs/notebooks/*.ipynb.

A block of commands that tests/docs runs becomes a cell; one that it leaves out stays text.
"""

import json
import re
from pathlib import Path
from typing import Any

from run_docs import BLOCK, ROOT, command_blocks, plan_of

OUT = ROOT / "docs/notebooks"
TUTORIALS = ("tutorial_demo", "tutorial_own_images", "tutorial_teams")
CELL = "%%bash -e\n"
"""First line of a cell of commands: its first error ends it."""
INSTALL = """\
Commands stand in cells that begin with `%%bash`. First upload the source code of wsss beside this notebook as a folder
`wsss` (Colab: the folder symbol at the left, or Google Drive; Kaggle: Add Input), choose a GPU if there is one, and
install it; on Kaggle without internet, see [the offline notebook](../tutorial_teams.md#6-the-offline-notebook)."""
COMMANDS = """\
[ -d wsss ] || cp -r /kaggle/input/wsss .  # inputs of Kaggle cannot be written to
pip install --quiet ./wsss"""


def notebook(page: Path) -> dict[str, Any]:
    """Return a tutorial as a notebook (nbformat 4)."""
    skipped = {line.removeprefix("#: skip ") for line in plan_of(page).splitlines() if line.startswith("#: skip ")}
    text, cells = page.read_text(), list[dict[str, Any]]()
    at = text.index("\n", text.index("# ")) + 1
    cells += [_text(text[:at].strip()), _text(INSTALL), _commands(COMMANDS)]
    for match in BLOCK.finditer(text):
        found = command_blocks(match[0])
        if found and found[0][0] not in skipped:
            cells += [_text(text[at : match.start()].strip()), _commands(found[0][1].strip())]
            at = match.end()
    cells.append(_text(text[at:].strip()))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    shown = [{**cell, "id": f"cell-{n}"} for n, cell in enumerate(cell for cell in cells if cell["source"])]
    return {"cells": shown, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _text(text: str) -> dict[str, Any]:
    # links lead from docs/notebooks
    moved = re.sub(r"\]\((?!\w+://|#|\.\./tutorial)", "](../", text)
    return {"cell_type": "markdown", "metadata": {}, "source": moved.splitlines(keepends=True)}


def _commands(text: str) -> dict[str, Any]:
    source = (CELL + text).splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source}


def as_text(content: dict[str, Any]) -> str:
    """Return the content of a notebook's file."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name in TUTORIALS:
        path = OUT / f"{name.removeprefix('tutorial_')}.ipynb"
        path.write_text(as_text(notebook(ROOT / f"docs/{name}.md")))
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
