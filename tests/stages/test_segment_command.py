import multiprocessing
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsss.core import rle
from wsss.core.checks import ConfigError, DataError
from wsss.core.label_maps import read_label_map, write_label_map
from wsss.data.build import Spec, create_dataset
from wsss.data.catalog import DataSet
from wsss.data.origin import check_cells
from wsss.segment import main
from wsss.stages import segment


def blobs(*centres: tuple[int, int], shape: tuple[int, int] = (96, 96)) -> np.ndarray:
    image = np.full((4, *shape), 2, np.uint8)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for y, x in centres:
        away = np.hypot(rows - y, columns - x)
        image[0][away < 18] = image[3][away < 18] = 120
        image[2][away < 8] = 160
    return image


IMAGES = {
    "a": blobs((30, 30), (66, 66)),
    "empty": blobs(),
    "wide": blobs((30, 30), (30, 80), (30, 130), shape=(60, 160)),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return create_dataset(tmp_path / "set", IMAGES, spec=Spec(size=96))


def run(data: Path, *more: str) -> int:
    return main(["--data", str(data), "--workers", "0", *more])


def table(data: Path) -> pd.DataFrame:
    return pd.read_csv(data / "segments.csv").set_index("ID")


def test_every_image_gets_a_map_of_stored_size_and_a_row(data: Path) -> None:
    assert run(data) == 0
    assert table(data).n_cells.to_dict() == {"a": 2, "empty": 0, "wide": 3}
    for name in IMAGES:
        cells = read_label_map(data / "cells" / f"{name}.png")
        nuclei = read_label_map(data / "nuclei" / f"{name}.png")
        assert cells.shape == nuclei.shape == (96, 96)
        np.testing.assert_array_equal(np.unique(cells), np.unique(nuclei))
    assert not read_label_map(data / "cells" / "wide.png")[36:].any(), "the padding has no cells"


def test_areas_of_the_summary_are_those_of_the_original_image(data: Path) -> None:
    run(data)
    assert table(data).loc["wide", "median_area_px"] == pytest.approx(np.pi * 18**2, rel=0.15)


def test_where_no_image_has_a_map_the_exit_code_is_2_and_the_reasons_are_kept(data: Path, tmp_path: Path) -> None:
    write_label_map(tmp_path / "maps" / "other", np.ones((5, 5), np.int32))
    assert run(data, "--backend", "masks", "--masks", str(tmp_path / "maps")) == 2
    assert table(data).reason.str.contains("no masks of").all()


def test_given_maps_keep_their_ids_and_a_missing_or_wrong_one_is_recorded(data: Path, tmp_path: Path) -> None:
    given = np.zeros((60, 160), np.int32)
    given[5:50, 20:60] = 900
    write_label_map(tmp_path / "maps" / "wide", given)
    write_label_map(tmp_path / "maps" / "a", np.ones((5, 5), np.int32))
    chosen = ["--backend", "masks", "--masks", str(tmp_path / "maps")]
    assert run(data, *chosen) == 1
    np.testing.assert_array_equal(read_label_map(data / "cells" / "wide.png"), given)
    found = table(data)
    assert found.status.to_dict() == {"a": "failed", "empty": "failed", "wide": "ok"}
    assert "5 x 5, but a is 96 x 96" in found.reason["a"]
    assert "no masks of empty" in found.reason["empty"]

    write_label_map(tmp_path / "maps" / "a", np.ones((96, 96), np.int32))
    write_label_map(tmp_path / "maps" / "empty", np.zeros((96, 96), np.int32))
    assert run(data, *chosen) == 0, "failed images are tried again"
    assert (table(data).status == "ok").all()


def test_another_backend_needs_overwrite_and_leaves_no_old_nuclei(data: Path, tmp_path: Path) -> None:
    run(data)
    for name, image in IMAGES.items():
        write_label_map(tmp_path / "maps" / name, np.ones(image.shape[1:], np.int32))
    chosen = ["--backend", "masks", "--masks", str(tmp_path / "maps")]
    with pytest.raises(ConfigError, match=r"found by the backend unet, and masks .* --backend unet .* --overwrite"):
        run(data, *chosen)
    assert run(data, *chosen, "--overwrite") == 0
    assert list((data / "nuclei").iterdir()) == []
    assert read_label_map(data / "cells" / "a.png").all()


def test_a_second_run_makes_again_only_what_is_gone(data: Path) -> None:
    run(data)
    kept, lost = data / "cells" / "a.png", data / "cells" / "wide.png"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert run(data) == 0
    assert lost.exists()
    assert kept.stat().st_mtime_ns == before


def test_a_killed_run_goes_on_where_it_stopped_and_gives_the_same_maps(tmp_path: Path) -> None:
    many = {f"i{k:03d}": blobs((30, 30 + k % 40), (70, 60)) for k in range(10)}
    killed = create_dataset(tmp_path / "killed", many, spec=Spec(size=96))
    whole = create_dataset(tmp_path / "whole", many, spec=Spec(size=96))
    assert run(whole) == 0
    process = multiprocessing.get_context("fork").Process(target=run, args=(killed,))  # has nothing to import
    process.start()
    while not list(killed.glob("cells/i*.png")) and process.is_alive():
        time.sleep(0.005)
    process.kill()
    process.join()
    made = {path.name: path.stat().st_mtime_ns for path in killed.glob("cells/i*.png")}
    assert 0 < len(made) < 10
    assert not (killed / "segments.csv").exists()
    assert run(killed) == 0
    again = [name for name, then in made.items() if (killed / "cells" / name).stat().st_mtime_ns != then]
    assert len(again) <= 1, "at most the image in flight is redone"
    for path in sorted((whole / "cells").iterdir()):
        assert path.read_bytes() == (killed / "cells" / path.name).read_bytes()
    assert (killed / "segments.csv").read_bytes() == (whole / "segments.csv").read_bytes()


def test_cells_of_a_segmentation_that_was_cut_short_or_of_other_pixels_are_in_doubt(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data)
    check_cells(DataSet.open(data))
    with monkeypatch.context() as patch:
        patch.setattr(segment, "segment_images", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(data, "--overwrite")
    with pytest.raises(DataError, match=r"is unfinished, and its cells may be of two runs: run python -m wsss.segment"):
        check_cells(DataSet.open(data))
    run(data)
    check_cells(DataSet.open(data))
    create_dataset(data, IMAGES | {"a": blobs((40, 40))}, spec=Spec(size=96))
    with pytest.raises(DataError, match=r"the pixels of a in .* have changed since their cells were found"):
        check_cells(DataSet.open(data))
    run(data)
    check_cells(DataSet.open(data))


def test_maps_corrected_by_hand_are_not_replaced_where_their_images_or_masks_change(data: Path, tmp_path: Path) -> None:
    maps, chosen = tmp_path / "maps", ["--backend", "masks", "--masks", str(tmp_path / "maps")]
    for name, image in IMAGES.items():
        write_label_map(maps / name, np.ones(image.shape[1:], np.int32))
    assert run(data, *chosen) == 0
    by_hand = np.full((96, 96), 5, np.int32)
    write_label_map(data / "cells" / "a", by_hand)
    assert run(data, *chosen) == 0, "they are kept, and remembered"
    for name in ("a", "empty"):
        write_label_map(maps / name, np.full((96, 96), 3, np.int32))
    with pytest.raises(ConfigError, match=r"maps of a in .* were corrected by hand, .* have changed since"):
        run(data, *chosen)
    np.testing.assert_array_equal(read_label_map(data / "cells" / "a.png"), by_hand)
    (data / "cells" / "a.png").unlink()
    assert run(data, *chosen) == 0
    assert read_label_map(data / "cells" / "a.png").max() == 3


@pytest.mark.parametrize("backend", ["classical", pytest.param("unet", marks=pytest.mark.slow)])
def test_processes_give_what_one_process_gives(data: Path, tmp_path: Path, backend: str) -> None:
    run(data, "--backend", backend)
    other = create_dataset(tmp_path / "other", IMAGES, spec=Spec(size=96))
    assert main(["--data", str(other), "--backend", backend, "--workers", "2"]) == 0
    for path in sorted((data / "cells").iterdir()):
        assert path.read_bytes() == (other / "cells" / path.name).read_bytes()


def test_an_option_that_cannot_work_is_refused_before_any_image(data: Path) -> None:
    with pytest.raises(ConfigError, match="needs --masks"):
        run(data, "--backend", "masks")
    with pytest.raises(ConfigError, match="from 0 to 1024"):
        main(["--data", str(data), "--workers", "-1"])
    assert not (data / "cells").exists()


def test_a_change_of_the_table_that_names_images_without_cells_is_noticed(data: Path, tmp_path: Path) -> None:
    rows = [(name, rle.encode_label_map(image[2] > 9)[1].decode()) for name, image in IMAGES.items() if name != "empty"]
    pd.DataFrame(rows, columns=["ID", "rle"]).to_csv(tmp_path / "cells.csv", index=False)
    chosen = ["--backend", "masks", "--masks", str(tmp_path / "cells.csv")]
    (tmp_path / "images.csv").write_text("ID,n_cells\nempty,0\n")
    assert run(data, *chosen) == 0
    (tmp_path / "images.csv").write_text("ID,n_cells\nempty,3\n")
    assert run(data, *chosen) == 1
    assert "no row of empty" in table(data).reason["empty"]
