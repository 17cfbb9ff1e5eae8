"""Run the commands of a documentation page in a temporary folder, on drawn data: python scripts/run_docs.py docs/X.md

What is run is in tests/docs/X.sh: a shell script in the order of the page, run in one shell that ends at the first
error. Its lines are run as they stand, such as drawing images; these comments bring in the page's blocks of commands,
each named by its first command:

    #: replace A => B    in the next block B stands for A, such as a small network for a large one
    #: run COMMAND       the block is run here
    #: skip COMMAND      the block is left out ...
    #: reason TEXT       ... for this reason
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"^ *```(?P<language>\w*)\n(?P<fenced>.*?)^ *```|(?P<indented>(?:^ {4}[^\n]*\n)+)", re.DOTALL | re.MULTILINE
)
COMMAND = re.compile(r"^\s*(?:python |wsss |scripts/|bash |torchrun |srun |pip |ray )", re.MULTILINE)


def command_blocks(text: str) -> list[tuple[str, str]]:
    """Return (first command, block) of every block of a page, fenced or indented, that holds a command."""
    blocks = [(match["language"], match["fenced"] or match["indented"] or "") for match in BLOCK.finditer(text)]
    return [(_first_command(block), block) for name, block in blocks if name == "bash" or COMMAND.search(block)]


def _first_command(block: str) -> str:
    lines = (line.strip() for line in block.splitlines())
    return next(line for line in lines if line and not line.startswith("#"))


def script_of(page: str, plan: str) -> str:
    """Return the shell script of a page, from its text and from what tests/docs says of it.

    Raises:
        ValueError: the plan names a block that the page does not have at that place, or the page has one it leaves out.
    """
    parts: list[str] = []
    changes: list[tuple[str, str]] = []
    left = command_blocks(page)
    for line in plan.splitlines():
        word, _, rest = line.removeprefix("#:").strip().partition(" ")
        if not line.startswith("#:"):
            parts.append(line)
        elif word == "replace":
            old, _, new = rest.partition("=>")
            changes.append((old.strip(), new.strip()))
        elif word in ("run", "skip"):
            if not left or left[0][0] != rest.strip():
                raise ValueError(f"the page's next block is '{left[0][0] if left else 'none'}', the plan's '{rest}'.")
            _, block = left.pop(0)
            parts += [_replaced(block, changes)] if word == "run" else []
            changes = []
        elif word != "reason" or not rest:
            raise ValueError(f"'{line}' is none of replace, run, skip and reason.")
    if left:
        raise ValueError(f"nothing says whether this block is run:\n{left[0][1]}")
    return "\n".join(parts) + "\n"


def _replaced(block: str, changes: list[tuple[str, str]]) -> str:
    for old, new in changes:
        if old not in block:
            raise ValueError(f"the block has no '{old}' to replace:\n{block}")
        block = block.replace(old, new)
    return block


def plan_of(page: Path) -> str:
    """Return what tests/docs says of a page; nothing for a page without commands."""
    path = ROOT / "tests" / "docs" / f"{page.stem}.sh"
    return path.read_text() if path.exists() else ""


def run(page: Path, folder: Path) -> int:
    """Run a page's script in a folder that has the repository's scripts and configs; return its exit code."""
    for name in ("scripts", "configs"):
        (folder / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = f"set -euo pipefail\n{script_of(page.read_text(), plan_of(page))}"
    # so small a work goes faster with one thread than with several that wait for each other
    env = {"OMP_NUM_THREADS": "1", **os.environ, "PATH": path}
    return subprocess.run(["bash", "-x", "-c", script], cwd=folder, env=env).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="+")
    for page in parser.parse_args().page:
        with tempfile.TemporaryDirectory() as folder:
            code = run(page, Path(folder))
        print(f"{page}: {'all commands ran' if code == 0 else f'failed, exit code {code}'}")
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
