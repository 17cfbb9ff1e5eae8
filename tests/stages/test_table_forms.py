"""Every command reads a table alike, whatever program wrote it: a table of commands by forms of tables."""

import bz2
import gzip
import io
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsss.core import rle
from wsss.core.checks import DataError
from wsss.core.labels import HPA
from wsss.data.image_files import ImageFiles, read_path_list
from wsss.data.masks import open_masks
from wsss.data.tables import leave_out, read_labels
from wsss.inference.tables import iter_submission, read_cells, read_images
from wsss.metrics.cells import read_cell_truth
from wsss.options.download import DownloadOptions
from wsss.segmenters.annotations import TableMasks
from wsss.stages.download import wanted_images

MASK = rle.encode_label_map(np.pad(np.ones((2, 2), np.int32), 1))[1]
CELLS = "ID,cell_id,fold,ImageHeight,ImageWidth,center_y,center_x,y0,x0,y1,x1,area_px,touches_border,antibody,0,1"

FORMS: dict[str, Callable[[str], bytes]] = {
    "comma": lambda text: text.encode(),
    "semicolon": lambda text: text.replace(",", ";").encode(),
    "tab": lambda text: text.replace(",", "\t").encode(),
    "lower case": lambda text: _header(text, str.lower).encode(),
    "upper case": lambda text: _header(text, str.upper).encode(),
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.replace(",", ";").encode(),
    "UTF-16": lambda text: text.replace(",", "\t").encode("utf-16"),
    "sep=": lambda text: ("sep=;\r\n" + text.replace(",", ";")).encode(),
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "old Mac": lambda text: text.replace("\n", "\r").encode(),
    "quoted": lambda text: "\n".join(
        ",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines()
    ).encode(),
    "empty columns": lambda text: "\n".join(f"{line},," for line in text.splitlines()).encode(),
    "empty rows": lambda text: (text.replace("\n", "\n\n", 1) + "," * text.split("\n")[0].count(",") + "\n\n").encode(),
    "blanks": lambda text: text.replace(",", ", ").encode(),
    "blanks behind": lambda text: text.replace(",", " ,").replace("\n", "\u00a0\n").encode(),
    "big-endian": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "image": lambda text: re.sub(r"^(id|image)(?=,)", "File Name", text, flags=re.IGNORECASE).encode(),
    "row numbers": lambda text: "\n".join(
        f"{k - 1 if k else ''},{line}" for k, line in enumerate(text.splitlines())
    ).encode(),
    "decimal comma": lambda text: re.sub(r"(?<=;)0\.(?=\d+[;\n])", "0,", text.replace(",", ";")).encode(),
}
"""Name -> what makes a table of this form of one in plain CSV."""


def _header(text: str, change: Callable[[str], str]) -> str:
    first, rest = text.split("\n", 1)
    return f"{change(first)}\n{rest}"


def _salt(path: Path) -> Any:
    (path.parent / "images").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path.parent / "images" / "a.png")
    return open_masks(path.rename(path.with_name("train.csv")).parent).label_map(0).tolist()


def _depths(path: Path) -> Any:
    depths = path.read_bytes()
    path.write_text("id,rle_mask\na,1 2\n")
    path.with_name("depths.csv").write_bytes(depths)
    return _salt(path)


def _preds(path: Path) -> Any:
    found = read_cells(path.rename(path.with_name("cells.csv")).parent)
    return found.drop(columns=["touches_border"]).set_axis(range(found.shape[1] - 1), axis=1).to_numpy().tolist()


def _images(path: Path) -> Any:
    return read_images(path.rename(path.with_name("images.csv")).parent).to_numpy().tolist()


def _truth(path: Path) -> Any:
    found = read_cell_truth(path, HPA)
    return found.ids.tolist(), found.cells.tolist(), found.labels.tolist()


def _masks(path: Path) -> Any:
    found = TableMasks(path).masks("a", (4, 4))
    return found.ids, found.counts, found.size


def _list(path: Path) -> Any:
    return [(image.ID, image.names) for image in read_path_list(path, ("red", "green", "blue", "yellow")).images]


def _labels(path: Path) -> Any:
    found = read_labels(path, HPA)
    return found.labels, found.carried.to_numpy().tolist()


def _submission(path: Path) -> Any:
    return [(one.image_id, one.size, one.scores.tolist(), one.masks) for one in iter_submission(path, 19)]


COMMANDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "prepare --labels": ("ID,Label,antibody\na,8|5,HPA1\nb,Cytosol,\n", _labels),
    "prepare --labels, 2018": ("Id,Target\na,11 25\nb,0\n", _labels),
    "prepare --labels, one-hot": (
        "ID," + ",".join(map(str, range(19))) + "\na," + ",".join("1" if k < 2 else "0" for k in range(19)) + "\n",
        _labels,
    ),
    "evaluate, calibrate, ensemble, overlay, report --truth": ("ID,cell,Label\na,1,18\na,2,0|16\n", _truth),
    "evaluate --truth, Atlas": ("ID,Label,Cell_index,Cell_Label\na,10|16,1,16\na,10|16,2,18\n", _truth),
    "evaluate --submission": (
        f"ID,ImageWidth,ImageHeight,PredictionString\na,4,4,3 0.5 {rle.to_submission(MASK)}\n",
        _submission,
    ),
    "segment --masks": (f"ID,cell_id,rle\na,7,{MASK.decode()}\n", _masks),
    "segment --masks, a submission": (
        f"ID,ImageWidth,ImageHeight,PredictionString\na,4,4,3 0.5 {rle.to_submission(MASK)}\n",
        _masks,
    ),
    "prepare --images path_list.csv": (
        "r_image,y_image,b_image,g_image,output_folder,output_prefix\nr.png,y.png,b.png,g.png,out,x\n",
        _list,
    ),
    "train --task masks, salt": ("id,rle_mask\na,1 2\n", _salt),
    "train --task masks, depths": ("id,z\na,0.5\n", _depths),
    "download --labels": (
        "ID,Label\n1_2_A1_1,8\n3_4_B2_2,5\n",
        lambda path: wanted_images(DownloadOptions(path, labels=path)),
    ),
    "evaluate, ensemble: cells.csv": (f"{CELLS}\na,1,-1,4,4,1.5,0.5,1,1,3,3,4,False,HPA1,0.25,0.5\n", _preds),
    "evaluate, ensemble: images.csv": ("ID,fold,n_cells,status,0,1\na,-1,1,ok,0.25,0.5\nb,-1,0,failed,,\n", _images),
}
"""What the user types -> a table in plain CSV, and what the command's reader makes of it."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reads_every_form_alike(tmp_path: Path, command: str) -> None:
    text, read = COMMANDS[command]
    results = {}
    for form, write in FORMS.items():
        if form == "row numbers" and "path_list" in command:
            continue  # a list of images may have no header, so its columns count from the first
        path = tmp_path / form.strip("=") / "table.csv"
        path.parent.mkdir()
        path.write_bytes(write(text))
        results[form] = read(path)
        np.testing.assert_equal(results[form], results["comma"], err_msg=form)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lists_of_ids_are_read_from_any_editor(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(mark + b"1_2_A1_1\r\n\r\n3_4_B2_2\r\n")
    assert [image.ID for image in wanted_images(DownloadOptions(tmp_path, ids=str(path)))] == ["1_2_A1_1", "3_4_B2_2"]
    files = [ImageFiles(ID, ()) for ID in ("1_2_A1_1", "3_4_B2_2", "c")]
    assert [image.ID for image in leave_out(files, str(path))] == ["c"]


def test_download_takes_the_addresses_of_the_public_atlas(tmp_path: Path) -> None:
    path = tmp_path / "public.tsv"
    path.write_text("Image\tLabel\nhttps://images.proteinatlas.org/10580/1610_C1_1_\tCytosol\n")
    assert [image.ID for image in wanted_images(DownloadOptions(tmp_path, labels=path))] == ["10580_1610_C1_1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,cell,Label\n\na,x,3\n", "row 3: cell is 'x', expected a whole number"),
        ("sep=;\nID;cell;Label\na;1;Nucleolus\n", "row 3: label 'Nucleolus' is neither a class id nor a class name"),
        ("ID,cell,Label\na,1\n", "row 2: has 2 fields, the header has 3"),
        ("ID,cell,Label\na,1,0,5\n", "row 2: has 4 fields.*decimal comma"),
        ("ID,cell,,Label\na,1,z,0\n", "row 2: column 3 holds 'z' and has no name"),
        ("ID,cell,cell,Label\na,1,1,0\n", "two columns of one name: cell"),
        ("ID,id,CELL,Cell,Label\na,a,1,1,0\n", "has the columns CELL, Cell: keep one cell"),
        ("PK\x03\x04rubbish", "is an Excel workbook, or another zip file: save the sheet as CSV"),
        ("PAR1rubbish", "is a Parquet file"),
    ],
)
def test_a_fault_is_one_line_with_file_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"t\.csv.*{message}") as error:
        read_cell_truth(path, HPA)
    assert "\n" not in str(error.value)


def _parquet(text: str) -> bytes:
    stream = io.BytesIO()
    pd.read_csv(io.StringIO(text)).to_parquet(stream)
    return stream.getvalue()


REFUSED: dict[str, tuple[Callable[[str], bytes], str]] = {
    "gzip": (lambda text: gzip.compress(text.encode()), "compressed by gzip: unpack it first"),
    "bzip2": (lambda text: bz2.compress(text.encode()), "compressed by bzip2: unpack it first"),
    "xz": (lambda text: lzma.compress(text.encode()), "compressed by xz: unpack it first"),
    "zstd": (lambda text: b"\x28\xb5\x2f\xfd" + text.encode(), "compressed by zstd: unpack it first"),
    "Excel": (
        lambda text: b"PK\x03\x04" + text.encode(),
        "an Excel workbook, or another zip file: save the sheet as CSV",
    ),
    "Parquet": (_parquet, "a Parquet file, expected a text table: save it as CSV"),
    "UTF-32": (lambda text: text.encode("utf-32"), "text in UTF-32: save it as CSV in UTF-8"),
    "UTF-16 without a mark": (lambda text: text.encode("utf-16-le"), "NUL byte in row 1: .*save it as CSV in UTF-8"),
    "Latin-1": (lambda text: (text.rstrip() + "ü").encode("latin-1"), "is not UTF-8 text .*save it as CSV in UTF-8"),
    "nothing": (lambda text: b"", "is no CSV table"),
}
"""Name -> what makes a table of a form that is not read, and how it is refused."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_other_forms_in_one_line(tmp_path: Path, command: str) -> None:
    text, read = COMMANDS[command]
    for form, (write, words) in REFUSED.items():
        path = tmp_path / form / "table.csv"
        path.parent.mkdir()
        path.write_bytes(write(text))
        with pytest.raises(DataError, match=rf"\.csv.*{words}") as error:
            read(path)
        assert "\n" not in str(error.value), form


@pytest.mark.parametrize("command", [name for name in COMMANDS if not name.startswith(("segment", "train"))])
def test_names_of_macos_and_names_like_formulas_are_read_alike(tmp_path: Path, command: str) -> None:
    """macOS takes an umlaut apart; wsss itself writes an apostrophe before what a spreadsheet would run."""
    text, read = COMMANDS[command]

    def names(name: str) -> Any:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}" / "table.csv"
        path.parent.mkdir()
        path.write_text(text.replace("\na,", f"\n{name},").replace(",x\n", f",{name}\n"))
        return read(path)

    np.testing.assert_equal(names("u\u0308"), names("\u00fc"))
    if "submission" not in command and "path_list" not in command:
        np.testing.assert_equal(names("'=1+1"), names("=1+1"))
