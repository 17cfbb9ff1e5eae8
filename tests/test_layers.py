"""The layers of the package: imports go down only, folders of one row do not import each other."""

import ast
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "wsss"
LAYER = {
    "core": 1,
    "options": 2,
    "runs": 3,
    "data": 4,
    "cells": 3,
    "metrics": 4,
    "reports": 5,
    "exports": 5,
    "models": 5,
    "segmenters": 6,
    "feature_classifier": 6,
    "reviewing": 7,
    "training": 7,
    "inference": 7,
    "stages": 8,
}
COMMAND = 9
HEAVY = {"albumentations", "cv2"}
LIGHT_PLACES = ("models", "training/losses.py", "inference/semantic.py", "cells/scoring.py")
TORCHLESS = ("core", "options", "cells", "metrics", "reports", "exports")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(parse(path)))


@cache
def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    found: set[str] = set()
    for node in parse(path).body if top_level_only else nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def place(module: str) -> tuple[str, int]:
    """Return the folder and the row of a wsss module; everything right under wsss is a command."""
    parts = module.split(".")
    folder = parts[1] if len(parts) > 1 else ""
    return folder, LAYER.get(folder, COMMAND)


FILES = sorted(ROOT.rglob("*.py"))


def test_imports_go_down_only() -> None:
    for path in FILES:
        inside = path.relative_to(ROOT)
        package = inside.parts[0] if len(inside.parts) > 1 else ""
        row = LAYER.get(package, COMMAND)
        for module in imports(path):
            if module.split(".")[0] != "wsss" or module in ("wsss", "wsss.__version__"):
                continue
            folder, target = place(module)
            if row == COMMAND or folder == package:
                continue
            assert target < row, f"{inside} imports {module}: a row may import lower rows only"


def test_every_folder_has_a_row() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES if path.parent != ROOT} == set(LAYER)


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in FILES} | {ROOT / "shipped"}
    assert set(listed) == {".".join(folder.relative_to(ROOT.parent).parts) for folder in folders}


def test_no_circle_not_even_by_late_imports() -> None:
    names = {".".join(("wsss", *path.relative_to(ROOT).with_suffix("").parts)): path for path in FILES}
    names |= {name.removesuffix(".__init__"): path for name, path in names.items() if name.endswith(".__init__")}
    graph = {path: {names[module] for module in imports(path) if module in names} - {path} for path in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError with the files of a circle


MOST_LATE = 13
"""Imports inside functions; lower it when one goes."""


def test_late_imports_are_few() -> None:
    late = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for function in nodes_of(path)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert len(late) <= MOST_LATE, sorted(late)


@pytest.mark.parametrize("light", LIGHT_PLACES)
def test_light_places_need_neither_albumentations_nor_opencv(light: str) -> None:
    target = ROOT / light
    for path in [target] if target.suffix else sorted(target.rglob("*.py")):
        assert not {m.split(".")[0] for m in imports(path)} & HEAVY, path


@pytest.mark.parametrize("folder", TORCHLESS)
def test_lower_rows_need_no_torch(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        assert "torch" not in {m.split(".")[0] for m in imports(path, top_level_only=True)}, path


READERS = {
    "json.load": (),
    "json.loads": ("core/reading.py",),
    "yaml.load": ("core/reading.py",),
    "yaml.safe_load": (),
    "np.load": ("core/reading.py",),
    "numpy.load": (),
    "pd.read_parquet": (),
    "pq.read_table": (),
    "pq.ParquetFile": ("core/parquet.py",),
    "pd.read_csv": ("core/csv_text.py",),
    "pd.read_json": (),
    "pd.read_pickle": (),
    "pickle.load": (),
    "pickle.loads": (),
    "torch.load": ("runs/run_folder.py",),
    "zipfile.ZipFile": ("core/reading.py", "data/pseudo.py"),  # the latter writes one
    "read_bytes": ("core/reading.py", "inference/hub.py", "reviewing/server.py"),  # of files just written
    "read_text": ("options/configs.py", "stages/configs.py", "stages/doctor.py", "models/device.py"),  # of the machine
    "to_csv": ("core/csv_text.py",),
    "to_parquet": (),
}
"""What reads or writes a file without limits, digests or guards -> the only files that may call it."""


def test_files_are_read_and_written_through_one_module_a_format() -> None:
    for path in FILES:
        inside = str(path.relative_to(ROOT))
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                for name in (node.func.attr, f"{owner}.{node.func.attr}"):
                    where = f"{inside}:{node.lineno} calls {name}: use core/reading, parquet or csv_text"
                    assert inside in READERS.get(name, (inside,)), where


OPENERS = {
    "PIL.Image.open": "core/rasters.py",
    "tifffile.TiffFile": "core/tiff.py",
    **dict.fromkeys(("cv2.imread", "cv2.imdecode", "tifffile.imread", "tifffile.memmap")),
}
"""What opens a picture file -> the only file that may call it."""
OTHER_READERS = {"imageio", "skimage.io", "matplotlib.image", "imagecodecs"}


def dotted(node: ast.AST) -> str:
    """Return 'a.b.c' of such an expression, '' of others."""
    if isinstance(node, ast.Attribute) and (above := dotted(node.value)):
        return f"{above}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(path: Path) -> set[str]:
    """Return the dotted names that a file calls, by the modules that they come from."""
    known: dict[str, str] = {}
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            known |= {name.asname or name.name: name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Call):
            head, _, rest = dotted(node.func).partition(".")
            found.add(f"{known.get(head, head)}.{rest}".rstrip("."))
    return found


def test_picture_files_are_opened_in_one_place_alone() -> None:
    found = {(opener, str(path.relative_to(ROOT))) for path in FILES for opener in calls(path) & set(OPENERS)}
    assert found == {(opener, place) for opener, place in OPENERS.items() if place}
    for path in FILES:
        assert path == ROOT / "core/rasters.py" or not imports(path) & OTHER_READERS, path
