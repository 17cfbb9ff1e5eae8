from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest

from wsss import segmenters as backends
from wsss.core.checks import ConfigError, DataError
from wsss.core.label_maps import write_label_map
from wsss.segmenters import BackendOptions, CellMaps, Field, backend_names, make_backend
from wsss.segmenters.cell_unet import CellUnet
from wsss.segmenters.classical import ClassicalConfig


def everything(options: BackendOptions) -> backends.Backend:
    return lambda field: CellMaps(np.ones(field.image.shape[1:], np.int32), None)


def field(height: int = 20, width: int = 40, size: int = 10) -> Field:
    return Field("ab", np.zeros((4, size * height // width, size), np.uint8), height, width, size)


def test_a_package_adds_a_backend_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints([EntryPoint("whole", f"{__name__}:everything", backends.GROUP)])
    monkeypatch.setattr(backends, "_foreign", lambda: points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: everything)
    assert backend_names() == [*backends.BUILT_IN, "whole"]
    assert make_backend("whole")(field()).cells.all()


@pytest.mark.parametrize("place", ["no_such_package:make", "json:no_such_function"])
def test_a_backend_of_a_package_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(backends, "_foreign", lambda: EntryPoints([EntryPoint("odd", place, backends.GROUP)]))
    with pytest.raises(ConfigError, match=rf"--backend odd \({place}\) cannot be imported: .*no_such"):
        make_backend("odd")


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'classical'"):
        make_backend("clasical")


def test_auto_is_the_network_where_nuclei_and_cells_are_stained_and_classical_elsewhere() -> None:
    assert isinstance(make_backend("auto", BackendOptions(device="cpu")), CellUnet)
    for roles in (("nucleus", "signal"), ("cell", "signal"), ("nucleus", "outline", "signal")):
        made = make_backend("auto", BackendOptions(roles=roles, grow=0.5))
        assert made.keywords == {"config": ClassicalConfig(grow=0.5)}
    with pytest.raises(ConfigError, match="classical looks at channels of the role nucleus or cell"):
        make_backend("auto", BackendOptions(roles=("signal",)))


@pytest.mark.parametrize("shape", [(20, 40), (10, 10)])
def test_given_maps_of_native_or_stored_size_keep_their_ids(tmp_path: Path, shape: tuple[int, int]) -> None:
    given = np.zeros(shape, np.int32)
    given[1, 1], given[2, 3] = 70000, 12
    write_label_map(tmp_path / "ab", given)
    found = make_backend("masks", BackendOptions(tmp_path))(field())
    np.testing.assert_array_equal(found.cells, given)
    assert found.nuclei is None


def test_given_maps_of_another_size_are_refused_with_both_sizes(tmp_path: Path) -> None:
    write_label_map(tmp_path / "ab", np.ones((40, 20), np.int32))
    with pytest.raises(DataError, match=r"40 x 20, but ab is 20 x 40 \(stored 10 x 10\)"):
        make_backend("masks", BackendOptions(tmp_path))(field())


def test_given_maps_that_were_stretched_into_the_square_are_refused(tmp_path: Path) -> None:
    write_label_map(tmp_path / "ab", np.ones((10, 10), np.int32))
    with pytest.raises(DataError, match="beyond the 5 x 10 pixels"):
        make_backend("masks", BackendOptions(tmp_path))(field())


def test_the_folder_of_given_maps_is_checked_first(tmp_path: Path) -> None:
    for folder, words in ((None, "needs --masks"), (tmp_path / "none", "is no folder"), (tmp_path, "holds no masks")):
        with pytest.raises(ConfigError, match=words):
            make_backend("masks", BackendOptions(folder))
