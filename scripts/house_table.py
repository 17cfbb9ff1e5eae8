"""Measure the package: files, lines, functions, imports inside functions: python scripts/house_table.py [FOLDER]"""

import argparse
import ast
import statistics
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parents[1] / "wsss")
    root = parser.parse_args().folder
    sizes, functions, late = [], [], 0
    for path in root.rglob("*.py"):
        text = path.read_text()
        sizes.append(text.count("\n"))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                functions.append((node.end_lineno or node.lineno) - node.lineno + 1)
                late += sum(isinstance(part, ast.Import | ast.ImportFrom) for part in ast.walk(node))
    for name, values in (("files", sizes), ("functions", functions)):
        tenths = statistics.quantiles(values, n=10)
        print(
            f"{name}: {len(values)}, lines median {statistics.median(values):g}, p90 {tenths[8]:g}, most {max(values)}"
        )
    print(f"lines: {sum(sizes)}; imports inside functions: {late}")


if __name__ == "__main__":
    main()
