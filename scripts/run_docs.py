"""Run the commands of a documentation page in a temporary folder, on drawn data: python scripts/run_docs.py docs/X.md

What is run, in the order of the page, in one shell that ends at the first error:

    <!-- run -->               the next ```bash block is run
    <!-- run COMMANDS -->      what the reader does not see is run, such as drawing images
    <!-- run replace: A => B --> in the next block B stands for A, such as a small network for a large one
    <!-- not run: REASON -->   says why the next block is left out; a test finds blocks of commands without any mark
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PART = re.compile(r"<!-- run(?P<hidden>.*?)-->|```bash\n(?P<block>.*?)```", re.DOTALL)
ROOT = Path(__file__).parents[1]


def script_of(text: str) -> str:
    """Return the shell script of a page: its marked blocks, in their order.

    Raises:
        ValueError: a mark has no block behind it, or what it replaces is not there.
    """
    parts: list[str] = []
    marked, changes = False, []
    for found in PART.finditer(text):
        hidden, block = found["hidden"], found["block"]
        if block is None:
            told = hidden.strip()
            if told.startswith("replace:"):
                changes.append(tuple(part.strip() for part in told.removeprefix("replace:").split("=>")))
            elif told:
                parts.append(told + "\n")
            else:
                marked = True
            continue
        if not marked:
            continue
        for old, new in changes:
            if old not in block:
                raise ValueError(f"the block has no '{old}' to replace:\n{block}")
            block = block.replace(old, new)
        parts.append(block)
        marked, changes = False, []
    if marked or changes:
        raise ValueError("a mark '<!-- run -->' has no ```bash block behind it.")
    return "\n".join(parts)


def run(page: Path, folder: Path) -> int:
    """Run a page's script in a folder that has the repository's scripts and configs; return its exit code."""
    for name in ("scripts", "configs"):
        (folder / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = f"set -euo pipefail\n{script_of(page.read_text())}"
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
