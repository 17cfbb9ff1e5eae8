"""One protocol for results: old or new, never both; what is not ours is left alone; what changed is named."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wsss.core.checks import ConfigError, DataError
from wsss.core.files import read_json, write_json
from wsss.runs.inputs import Digests, differences
from wsss.runs.journal import Journal
from wsss.runs.output import Output, at_file, in_folder, settle
from wsss.runs.result_record import STATE, check_recorded, record_of, there_now


def make(folder: Path, source: Path, *, names: tuple[str, ...] = ("a.csv", "b/c.csv"), **more: Any) -> bool:
    """Write a result that holds the content of `source` in every file; return whether there was work to do."""
    options = more.pop("options", {"how": "mean"})
    with in_folder(folder, more.pop("command", "ensemble")) as output:
        gather = lambda digests: {"options": options, "files": {source.name: digests.of(source)}}  # noqa: E731
        if not output.begin(gather, **more):
            return False
        for name in names:
            output.path(name).write_text(source.read_text())
        output.publish()
    return True


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "input.csv"
    path.write_text("one")
    return path


def visible(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and STATE not in p.parts)


def test_a_result_is_made_once(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(tmp_path / "out", source)
    assert visible(tmp_path / "out") == ["a.csv", "b/c.csv"]
    assert [path.name for path in (tmp_path / "out" / STATE).iterdir()] == ["result.json"]
    assert not make(tmp_path / "out", source)
    assert "holds this result already: nothing to do" in capsys.readouterr().out


def test_other_options_are_another_result_and_changed_content_an_old_one(tmp_path: Path, source: Path) -> None:
    make(tmp_path / "out", source)
    with pytest.raises(ConfigError, match=r"holds another result \(how was mean, now rank\)"):
        make(tmp_path / "out", source, options={"how": "rank"}, subject=("options",))
    with pytest.raises(ConfigError, match="holds a result of ensemble"):
        make(tmp_path / "out", source, command="overlay")
    before = source.stat()
    source.write_text("two")  # of equal size
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConfigError, match=r"\(input.csv has changed\)"):
        make(tmp_path / "out", source)
    assert make(tmp_path / "out", source, subject=("options",), names=("a.csv", "d.csv"))
    assert visible(tmp_path / "out") == ["a.csv", "d.csv"]
    assert (tmp_path / "out" / "a.csv").read_text() == "two"


def test_what_is_not_ours_is_left_alone_without_overwrite(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"a.csv is not of this result and would be replaced"):
        make(tmp_path / "out", source)
    assert visible(tmp_path / "out") == ["a.csv"]
    assert not (tmp_path / "out" / STATE).exists()
    (tmp_path / "out" / "other.txt").write_text("mine too")
    make(tmp_path / "out", source, overwrite=True)
    assert visible(tmp_path / "out") == ["a.csv", "b/c.csv", "other.txt"]


def test_a_file_changed_by_hand_is_not_replaced_and_a_missing_one_is_made_again(tmp_path: Path, source: Path) -> None:
    make(tmp_path / "out", source)
    (tmp_path / "out" / "a.csv").unlink()
    assert make(tmp_path / "out", source)
    (tmp_path / "out" / "a.csv").write_text("corrected")
    with pytest.raises(ConfigError, match=r"a.csv was changed by hand since it was written"):
        make(tmp_path / "out", source)


def test_a_copied_result_is_the_same_result(tmp_path: Path, source: Path) -> None:
    make(tmp_path / "out", source)
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    assert not make(tmp_path / "copy", source)


def test_an_input_that_changes_while_it_is_read_is_noticed(tmp_path: Path, source: Path) -> None:
    with in_folder(tmp_path / "out", "ensemble") as output:
        output.begin(lambda digests: {"files": {"input.csv": digests.of(source)}})
        output.path("a.csv").write_text("x")
        source.write_text("two")
        with pytest.raises(DataError, match=r"input\.csv has changed while it was read"):
            output.publish()
    assert not (tmp_path / "out").exists()


def test_files_of_another_result_in_the_same_folder_are_not_replaced(tmp_path: Path, source: Path) -> None:
    make(tmp_path / "out", source)
    with at_file(tmp_path / "out" / "a.csv", "evaluate") as output:
        output.begin(lambda digests: {})
        output.path("a.csv").write_text("x")
        with pytest.raises(ConfigError, match=r"a\.csv belongs to the result there"):
            output.publish()
    assert not make(tmp_path / "out", source)


def test_two_results_whose_companions_have_one_name_need_two_folders(tmp_path: Path) -> None:
    def figures(name: str, *, overwrite: bool = False) -> None:
        with at_file(tmp_path / "out" / name, "evaluate") as output:
            if output.begin(lambda digests: {}, overwrite=overwrite):
                for file in (name, "confusion.csv"):
                    output.path(file).write_text(name)
                output.publish()

    figures("a.json")
    with pytest.raises(
        ConfigError,
        match=r"confusion\.csv belongs to a\.json and would be replaced: choose an --out in another folder",
    ):
        figures("b.json")
    assert visible(tmp_path / "out") == ["a.json", "confusion.csv"]
    figures("b.json", overwrite=True)
    with pytest.raises(ConfigError, match=r"confusion\.csv belongs to b\.json now: choose another --out"):
        figures("a.json")


def test_an_unfinished_work_goes_on_and_a_failed_item_is_tried_again(tmp_path: Path) -> None:
    def work(marks: dict[str, str], *, fail: str = "", stop: bool = False) -> list[str]:
        done = []
        with in_folder(tmp_path / "out", "infer") as output:
            if not output.begin(lambda digests: {"options": {}}, marks=lambda digests: marks):
                return ["nothing"]
            with output.journal() as journal:
                fresh = output.fresh(journal)
                for name in sorted(set(marks) - fresh):
                    done.append(name)
                    journal.add(name, {"mark": marks[name], "failed": name == fail})
                    if stop:
                        raise KeyboardInterrupt
                output.path("table.csv").write_text(",".join(sorted(journal.keys())))
            output.publish(failed=[fail] if fail else [])
        return done

    with pytest.raises(KeyboardInterrupt):
        work({"a": "1", "b": "1", "c": "1"}, stop=True)
    assert work({"a": "2", "b": "1", "c": "1"}, fail="c") == ["a", "b", "c"], "the cells of a have changed since"
    assert work({"a": "2", "b": "1", "c": "1"}) == ["c"]
    assert work({"a": "2", "b": "1", "c": "1"}) == ["nothing"]
    with pytest.raises(ConfigError, match="pixels or label maps of b have changed"):
        work({"a": "2", "b": "2", "c": "1"})


def in_child(work: Callable[[], object]) -> int:
    """Run something in a forked child; return its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def killed_at(step: int, work: Callable[[], object]) -> Callable[[], object]:
    """Return the work with a SIGKILL before the file system is changed for the n-th time."""

    def run() -> None:
        left = [step]

        def counted(change: Callable[..., Any]) -> Callable[..., Any]:
            def changing(*arguments: Any, **more: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*arguments, **more)

            return changing

        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        work()

    return run


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_change_leaves_the_old_result_or_the_new_one(tmp_path: Path, source: Path, stride: int) -> None:
    out, states = tmp_path / "out", set()
    for step in range(0, 200, stride):
        shutil.rmtree(out, ignore_errors=True)
        source.write_text("one")
        make(out, source, names=("a.csv", "b/c.csv", "old.csv"))
        source.write_text("two")
        again = partial(make, out, source, subject=("options",), names=("a.csv", "b/c.csv", "new.csv"))
        status = in_child(killed_at(step, again))
        settle(out)
        content = {name: (out / name).read_text() for name in visible(out) if not name.startswith(".lock")}
        assert content in (
            dict.fromkeys(("a.csv", "b/c.csv", "old.csv"), "one"),
            dict.fromkeys(("a.csv", "b/c.csv", "new.csv"), "two"),
        ), step
        states.add(content["a.csv"])
        again()
        assert visible(out) == ["a.csv", "b/c.csv", "new.csv"]
        assert [path.name for path in (out / STATE).iterdir()] == ["result.json"]
        if status == 0:
            break
    assert states == {"one", "two"}
    assert 10 < step < 199


def test_a_damaged_record_is_no_record_and_a_newer_one_is_named(tmp_path: Path, source: Path) -> None:
    make(tmp_path / "out", source)
    path = tmp_path / "out" / STATE / "result.json"
    path.write_text(path.read_text().replace("ensemble", "ensambla"))
    assert record_of(tmp_path / "out") is None
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(DataError, match="made by a newer wsss"):
        record_of(tmp_path / "out")


def test_texts_of_zeros_are_refused_before_they_are_hashed(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text("ID,cell,Label\na,1,0\n")
    os.truncate(path, 1 << 34)  # takes no room, and a minute to hash
    with pytest.raises(DataError, match=r"truth\.csv has zeros where text"):
        Digests().of(path)


def test_digests_of_files_are_remembered_until_anything_of_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    first = Digests()
    digest = first.of(path)
    assert not first.seen, "just written, it may change again within one tick of the clock"
    remembered = Digests({str(path): ["another mark", "x"]})
    assert remembered.of(path) == digest
    folder = Digests().of(tmp_path)
    (tmp_path / "b").write_text("")
    assert Digests().of(tmp_path) != folder
    assert Digests().of(tmp_path / "none") is None


def test_differences_are_words() -> None:
    before = {"options": {"k": 1}, "files": {"t.csv": "0" * 16, "gone.csv": "1" * 16}, "members": [{"w": "2" * 16}]}
    now = {"options": {"k": 2}, "files": {"t.csv": "3" * 16}, "members": [{"w": "2" * 16}, {"w": "4" * 16}]}
    assert list(differences(before, now).values()) == [
        "k was 1, now 2",
        "t.csv has changed",
        "members.1.w is new",
        "gone.csv is gone",
    ]
    assert not differences(now, now)


def test_a_place_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, expected a folder"), in_folder(tmp_path / "file", "overlay"):
        pass
    with pytest.raises(ConfigError, match="is a folder, expected a file"), at_file(tmp_path, "report"):
        pass


def test_an_output_has_a_name(tmp_path: Path) -> None:
    assert Output(tmp_path, "result", "x").shown == tmp_path
    assert Output(tmp_path, "a.json", "x").shown == tmp_path / "a.json"


def test_what_is_handed_on_from_an_input_is_no_reason_to_make_a_result_again(tmp_path: Path, source: Path) -> None:
    def make_with_items() -> bool:
        with in_folder(tmp_path / "out", "ensemble") as output:
            if not output.begin(lambda digests: {"files": {"input.csv": digests.of(source)}}):
                return False
            output.path("a.csv").write_text("x")
            output.publish(items={"image": "mark"})
        return True

    assert make_with_items()
    assert not make_with_items()


@pytest.mark.parametrize("content", ['{"re', "[]", '{"remove": [], "record": {}, "keep": false}'])
def test_the_way_out_of_a_damaged_record_of_a_move_frees_the_folder(content: str, tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    make(out, source)
    (out / STATE / "result.commit").write_text(content)
    for attempt in (settle, lambda folder: make(folder, source, overwrite=True)):
        with pytest.raises(DataError, match=rf"remove {out / STATE}, and make the result again"):
            attempt(out)
    shutil.rmtree(out / STATE)
    assert make(out, source, overwrite=True)


@pytest.mark.parametrize("name", ["../mine", "/mine", "a/../../mine", ".wsss/result.json", "", "a\0b"])
def test_a_record_of_a_stranger_moves_and_removes_nothing_outside_its_folder(
    name: str, tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out"
    make(out, source)
    (tmp_path / "mine").write_text("mine")
    record = read_json(out / STATE / "result.json")
    hostile = record | {"files": {name: ["", "0" * 16]}}
    for commit in ({"remove": [name], "record": record}, {"remove": [], "record": hostile}):
        write_json(out / STATE / "result.commit", commit | {"keep": False})
        with pytest.raises(DataError, match="outside its folder"):
            settle(out)
    (out / STATE / "result.commit").unlink()
    write_json(out / STATE / "result.json", hostile)
    with pytest.raises(DataError, match="outside its folder"):
        make(out, source, overwrite=True)
    assert (tmp_path / "mine").read_text() == "mine"


def test_records_that_are_none_are_one_line(tmp_path: Path, source: Path) -> None:
    make(tmp_path / "out", source)
    path = tmp_path / "out" / STATE / "result.json"
    good = read_json(path)
    for change in ({"files": 3}, {"files": {"a.csv": 1}}, {"seen": []}, {"failed": [1]}, {"read": None}, {"items": 0}):
        write_json(path, good | change)
        with pytest.raises(DataError, match="is no record of a result"):
            make(tmp_path / "out", source)


def test_a_file_of_a_result_that_is_gone_is_missed(tmp_path: Path, source: Path) -> None:
    make(tmp_path / "out", source)
    (tmp_path / "out" / "a.csv").unlink()
    with pytest.raises(DataError, match=r"a\.csv is missing, a file of the result in"):
        check_recorded(tmp_path / "out" / "a.csv")


@pytest.mark.parametrize("target", ["a.csv", "nowhere", "../mine.txt"])
def test_links_in_the_way_are_replaced_when_asked_only(target: str, tmp_path: Path, source: Path) -> None:
    """A link to itself, one that leads nowhere, and one to a file of the user's."""
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.csv").symlink_to(target)
    with pytest.raises(ConfigError, match=r"a\.csv is not of this result and would be replaced"):
        make(tmp_path / "out", source)
    assert (tmp_path / "out" / "a.csv").is_symlink()
    make(tmp_path / "out", source, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "out" / "a.csv").is_symlink()
    (tmp_path / "out" / "a.csv").unlink()
    (tmp_path / "out" / "a.csv").symlink_to(target)
    with pytest.raises(ConfigError, match=r"a\.csv was changed by hand"):
        make(tmp_path / "out", source)


@pytest.mark.parametrize("place", ["a.csv/mine.txt", "b"])
def test_folders_in_the_place_of_files_and_files_of_folders_are_never_replaced(
    place: str, tmp_path: Path, source: Path
) -> None:
    path = tmp_path / "out" / place
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    for _ in range(2):  # nothing is left half-published
        with pytest.raises(ConfigError, match=r"is a (file, expected a folder|folder, expected a file): move it away"):
            make(tmp_path / "out", source, overwrite=True)
    assert path.read_text() == "mine"


def test_a_result_is_the_same_from_another_folder_by_a_link_and_after_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "below").mkdir(parents=True)
    (home / "input.csv").write_text("one")

    def again(out: str, source: str) -> bool:
        path, options = Path(source), {"source": source}
        with in_folder(Path(out), "ensemble") as output:
            read = lambda digests: {"options": options, "files": {source: digests.of(path)}}  # noqa: E731
            if not output.begin(read):
                return False
            output.path("a.csv").write_text(path.read_text())
            output.publish()
        return True

    monkeypatch.chdir(home)
    assert again("out", "input.csv")
    (home / "link").symlink_to(home)
    for folder, out, source in (
        ("below", "../out", "../input.csv"),
        (".", str(home / "out"), str(home / "input.csv")),
        (".", "link/out", "link/input.csv"),
    ):
        monkeypatch.chdir(home / folder)
        assert not again(out, source), (folder, source)
    monkeypatch.chdir(tmp_path)
    home.rename(tmp_path / "moved")
    assert not again("moved/out", "moved/input.csv")
    (tmp_path / "moved/input.csv").write_text("two")
    with pytest.raises(ConfigError, match=r"input.csv has changed"):
        again("moved/out", "moved/input.csv")
    (tmp_path / "moved/other.csv").write_text("one")
    with pytest.raises(ConfigError, match=r"input.csv, now moved/other.csv"):
        again("moved/out", "moved/other.csv")


def test_work_goes_on_from_another_folder_and_after_a_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home/below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home")
    Path("masks").touch()
    with Journal(Path("j.sqlite"), {"masks": "masks"}) as journal:
        journal.add("a", {})
    monkeypatch.chdir(tmp_path / "home/below")
    with Journal(Path("../j.sqlite"), {"masks": "../masks"}) as journal:
        assert journal.keys() == {"a"}
    (tmp_path / "home").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    with Journal(Path("moved/j.sqlite"), {"masks": str(tmp_path / "moved/masks")}) as journal:
        assert journal.keys() == {"a"}
    with pytest.raises(ConfigError, match="masks was masks, now other"):
        Journal(Path("moved/j.sqlite"), {"masks": "other"})


@pytest.mark.parametrize("path", ["/", "/proc/kmsg", "/proc", "/dev/zero", "a\0b"])
def test_records_of_strangers_lead_to_no_system_folder_and_not_to_the_whole_disk(path: str, tmp_path: Path) -> None:
    (tmp_path / "beside").touch()
    place = {"cwd": str(tmp_path / "result"), "folder": str(tmp_path / "result")}
    assert there_now("../beside", tmp_path / "result", {"place": place}) == tmp_path / "beside"
    assert there_now("..", tmp_path / "result", {"place": place}) == tmp_path  # predictions within their set of masks
    assert there_now(path, tmp_path / "result", {"place": place}) is None
    assert there_now(path, tmp_path / "result", {}) is None


def test_what_commands_write_into_a_folder_of_inputs_is_no_input_but_exports_and_linked_folders_are(
    tmp_path: Path, source: Path
) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for place in (data / "images", elsewhere, data / "run/fold0"):
        place.mkdir(parents=True)
        (place / "a.png").write_text("one")
    (data / "masks").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(data)
    (data / "run/fold0/train_ids.txt").touch()
    before = Digests().of(data)
    make(data / "preds", source)
    with at_file(data / "scores.json", "evaluate") as output:
        output.begin(lambda digests: {"files": {"data": digests.of(data)}})
        output.path("scores.json").write_text("{}")
        output.publish()  # finds nothing changed
    assert Digests().of(data) == before
    make(data / "objects", source, command="export")
    assert (exported := Digests().of(data)) != before
    (elsewhere / "a.png").write_text("two")
    assert Digests().of(data) not in (before, exported)
