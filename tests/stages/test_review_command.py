"""The review stage: the page's server as plain HTTP, the answers on disk, the tables, and the page in a browser."""

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import requests, wait_for
from reviewable import CLASSES, label_map, write_reviewable

from wsss import evaluate, review
from wsss.core.checks import ConfigError, DataError
from wsss.core.files import read_json
from wsss.core.label_maps import write_label_map
from wsss.inference import tables
from wsss.metrics.cells import read_cell_truth
from wsss.options.review import ReviewOptions
from wsss.reviewing.answers import Answer, Answers
from wsss.reviewing.server import ReviewServer, ReviewSite, Views
from wsss.reviewing.session import Session
from wsss.stages.review import open_session


@pytest.fixture
def preds(tmp_path: Path) -> Path:
    return write_reviewable(tmp_path)


def session_of(preds: Path, **more: Any) -> tuple[Session, Any]:
    out = preds.parent / "review"
    out.mkdir(exist_ok=True)
    return open_session(ReviewOptions(preds, **more), out)


@pytest.fixture
def server(preds: Path) -> Iterator[ReviewServer]:
    session, data = session_of(preds)
    found = ReviewServer(ReviewSite(session, Views(data), preds.parent / "review", "Review of <b>preds"))
    worker = threading.Thread(target=found.serve, daemon=True)
    worker.start()
    yield found
    found.site.done.set()
    worker.join(10)
    session.answers.close()


def ask(
    server: ReviewServer, path: str, body: object = None, *, token: str | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Send a request as a browser would, or as headers say; return status, content and headers."""
    link = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        given = {"Content-Type": "application/json"} | given
    address = f"/{server.token if token is None else token}/{path}"
    content = None if body is None else json.dumps(body)
    link.request("GET" if body is None else "POST", address, content, given)
    reply = link.getresponse()
    raw = reply.read()
    kind = reply.headers.get_content_type()
    link.close()
    return reply.status, json.loads(raw) if kind == "application/json" else raw, dict(reply.headers)


def test_only_who_was_given_the_address_gets_an_answer(server: ReviewServer) -> None:
    port = server.server_address[1]
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "setup")[0] == 200
    assert ask(server, "setup", token="guess")[0] == 403
    assert ask(server, "setup", token="")[0] == 403
    assert ask(server, "setup", Host=f"evil.example:{port}")[0] == 403, "DNS rebinding"
    assert ask(server, "setup", Host="localhost:9999")[0] == 200, "an SSH tunnel"
    assert ask(server, "undo", {}, Origin="http://evil.example")[0] == 403
    assert ask(server, "undo", {}, Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(server, "undo", {}, Content_Type="text/plain")[0] == 400, "a form of another page"
    assert ask(server, "undo", {"x": "y" * 20_000})[0] == 400


def test_the_page_may_load_nothing_from_elsewhere(server: ReviewServer) -> None:
    status, _, headers = ask(server, "")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    content = b"".join(ask(server, name)[1] for name in ("", "review.css", "review.js"))
    assert b"http" not in content.replace(b"http://www.w3.org/2000/svg", b"")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("nothing", None, 404),
        ("../setup", None, 404),
        ("cell?row=99", None, 404),
        ("cell?row=x", None, 400),
        ("cell", None, 400),
        ("cell?row=0&view=moon", None, 400),
        ("plane?row=0&channel=7", None, 404),
        ("next?strategy=magic", None, 400),
        ("next?strategy=class", None, 400),
        ("answer", {"row": 0, "strategy": "random", "labels": [7]}, 400),
        ("answer", {"row": -1, "strategy": "random", "labels": [0]}, 400),
        ("answer", {"row": 0, "strategy": "random", "labels": "0"}, 400),
        ("answer", {"row": 0, "strategy": "random", "labels": [0], "seconds": float("nan")}, 400),
        ("answer", {"row": 0, "strategy": "random", "labels": [0], "seconds": float("inf")}, 400),
        ("answer", {"row": float("inf"), "strategy": "random", "labels": [0]}, 400),
        ("answer", [], 400),
    ],
)
def test_requests_that_make_no_sense_are_refused_and_change_nothing(
    server: ReviewServer, path: str, body: object, status: int
) -> None:
    assert ask(server, path, body)[0] == status
    assert ask(server, "setup")[1]["counts"]["answered"] == 0


def test_an_address_that_is_none_leaves_no_trace(server: ReviewServer, capfd: pytest.CaptureFixture[str]) -> None:
    link = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    link.request("GET", "HTTP://[")
    assert link.getresponse().status == 400
    assert capfd.readouterr() == ("", "")


def test_a_cell_comes_with_pixels_outline_and_what_is_known(server: ReviewServer) -> None:
    population = server.site.session.population
    row = next(k for k in range(6) if population.cell(k) == ("two", 9))
    status, cell, _ = ask(server, f"cell?row={row}&view=far")
    assert status == 200, cell
    assert (cell["image"], cell["cell"], cell["labels"]) == ("two", 9, [0, 1])
    assert cell["path"].startswith("M")
    assert len(cell["others"]) == 2
    assert len(cell["scores"]) == 3
    plane, headers = ask(server, f"plane?row={row}&channel=1&view=far")[1:]
    assert plane.startswith(b"\x89PNG")
    assert headers["Content-Type"] == "image/png"
    assert ask(server, f"cell?row={row}&view=field")[1]["size"] == [38, 64], "the whole image at stored size"


def answer_all(server: ReviewServer) -> None:
    for label in ([0], [0, 1], [], [2], [1], [0]):
        row = ask(server, "next?strategy=random")[1]["rows"][0]
        assert ask(server, "answer", {"row": row, "strategy": "random", "labels": label, "seconds": 1.5})[0] == 200


def test_answers_become_a_table_that_evaluate_reads_and_figures(server: ReviewServer, preds: Path) -> None:
    answer_all(server)
    assert ask(server, "next?strategy=random")[1]["rows"] == []
    text = ask(server, "cells_truth.csv")[1].decode()
    assert text.startswith("ID,cell_id,Cell_Label,weight,strategy,image_mark")
    truth = read_cell_truth(preds.parent / "review/cells_truth.csv", CLASSES)
    assert len(truth.ids) == 5, "a cell that one cannot tell is not in the table"
    assert truth.labels.sum() == 6
    assert set(truth.marks) == {"one", "two"}
    record = ask(server, "figures")[1]
    assert (record["answered"], record["unclear"], record["several"]) == (6, 1, 1)
    assert record["figures"]["count"] == 5
    assert record["figures"]["effective"] == pytest.approx(5), "all cells were asked: each stands for itself"
    assert read_json(preds.parent / "review/review.json") == {"format": 1} | record
    words = ["--preds", str(preds), "--truth", str(preds.parent / "review/cells_truth.csv")]
    assert evaluate.main(words) == 0
    assert read_json(preds / "scores.json")["cells"]["count"] == 5


def test_undo_takes_back_one_answer_after_the_other_and_shows_its_cell(server: ReviewServer) -> None:
    rows = ask(server, "next?strategy=random")[1]["rows"]
    for row in rows[:2]:
        ask(server, "answer", {"row": row, "strategy": "random", "labels": [0]})
    assert ask(server, "undo", {})[1]["row"] == rows[1]
    assert ask(server, "next?strategy=random")[1]["rows"][0] == rows[1]
    assert ask(server, "undo", {})[1]["row"] == rows[0]
    assert ask(server, "undo", {})[1] | {"row": None, "answered": 0} == ask(server, "undo", {})[1]


def test_an_answer_that_cannot_be_written_leaves_the_one_before(
    server: ReviewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = server.site.session
    (row, *_) = session.next_cells("random")
    session.answer(row, "random", [0], 1.0, False)
    monkeypatch.setattr(session.answers, "add", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        session.answer(row, "random", [1], 1.0, False)
    assert session.counts()["per_class"][:2] == [1, 0]


def test_undo_after_a_new_start_takes_back_how_far_a_strategy_has_asked(preds: Path) -> None:
    session, _ = session_of(preds)
    asked: list[dict[str, float]] = []
    for _ in range(2):
        session.answer(session.next_cells("doubtful", 1)[0], "doubtful", [0], 1.0, False)
        asked.append(session.answers.designs())
    session.answers.close()
    session, _ = session_of(preds)
    session.undo()
    assert session.answers.designs() == asked[0] != asked[1]
    session.answers.close()


def test_a_killed_process_loses_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    Answers(path, CLASSES.names).close()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answers = Answers(path, CLASSES.names)
        for number in range(1, 4):
            answers.add(Answer(("one", number), (0, 2), "random", "m", 1.0, False), {"random": 1.0}, 0.5)
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    again = Answers(path, CLASSES.names)
    assert [own.cell for own in again.live()] == [("one", 1), ("one", 2), ("one", 3)]
    assert again.live()[0].labels == (0, 2)
    assert again.weights([("one", 1)])[0] == pytest.approx(1 / (1 - np.exp(-0.5)))
    again.close()
    with pytest.raises(DataError, match="another classes"):
        Answers(path, ["other"])
    path.write_bytes(b"no database at all, but long enough to look like one" * 50)
    with pytest.raises(DataError, match="is damaged"):
        Answers(path, CLASSES.names)


def test_answers_judge_later_predictions_of_the_same_cells_too(preds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session, _ = session_of(preds)
    for queue in ("random", "doubtful", "class:1", "random"):
        session.answer(session.next_cells(queue)[0], queue, [0], 1.0, False)
    before = session.answers.weights([own.cell for own in session.answers.live()])
    session.answers.close()
    words = ["--preds", str(preds), "--out", str(preds.parent / "review"), "--summary"]
    assert review.main(words) == 0
    assert "4 answers" in capsys.readouterr().out
    other = preds.parent / "other"
    preds.rename(other)
    frame = tables.read_cells(other).assign(rle="")
    frame[["0", "1", "2"]] = 1 - frame[["0", "1", "2"]]
    tables.write_cells(other, [frame])
    session, _ = session_of(other)
    assert session.counts()["answered"] == 4
    np.testing.assert_allclose(session.answers.weights([own.cell for own in session.answers.live()]), before)
    session.answer(session.next_cells("doubtful")[0], "doubtful", [1], 1.0, False)
    assert np.isfinite(session.answers.weights([own.cell for own in session.answers.live()])).all()
    assert session.figures().count == 5
    session.answers.close()


def test_answers_about_cells_that_were_found_anew_do_not_count(preds: Path) -> None:
    session, data = session_of(preds)
    for row in (3, 0):
        session.answer(row, "random", [0], 1.0, False)
    session.answers.close()
    write_label_map(data.folder / "cells/one", label_map().T.reshape(label_map().shape).copy())
    session, _ = session_of(preds)
    assert (session.counts()["answered"], session.elsewhere, session.figures().count) == (1, 1, 1)
    session.write(preds.parent / "review")
    truth = read_cell_truth(preds.parent / "review/cells_truth.csv", CLASSES)
    assert truth.ids.tolist() == ["two"]
    assert (session.undo(), session.undo()) == (3, None), "an answer that is not shown is not taken back"
    assert session.elsewhere == 1
    session.answers.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE answers SET labels = '3'",
        "UPDATE answers SET labels = 'x'",
        "UPDATE answers SET labels = x'ff'",
        "UPDATE answers SET image = x'ff'",
        "UPDATE answers SET cell = 'x'",
        "UPDATE answers SET seconds = 9e999",
        "UPDATE rates SET rate = -1",
        "UPDATE rates SET rate = 'nan'",
        "DELETE FROM rates",
        "UPDATE designs SET threshold = 'x'",
        "INSERT INTO designs VALUES ('class:3@0', 1.0)",
        "INSERT INTO designs VALUES ('magic', 1.0)",
    ],
)
def test_a_file_of_somebody_else_is_read_with_suspicion(tmp_path: Path, change: str) -> None:
    answers = Answers(tmp_path / "review.sqlite", CLASSES.names)
    answers.add(Answer(("one", 2), (0,), "random", "m", 1.0, False), {"random": 1.0}, 0.5)
    with answers._transaction():
        answers._db.execute(change)
    answers.close()
    with pytest.raises(DataError, match="is damaged"):
        Answers(tmp_path / "review.sqlite", CLASSES.names)


def test_sources_that_disagree_are_asked_about_first(preds: Path) -> None:
    frame = tables.read_cells(preds).assign(rle="")
    for part, score in (("cam", 0.1), ("crop", 0.9)):
        frame[["0", "1", "2"]] = 0.5
        frame.loc[frame.index[4], "1"] = score
        (preds / part).mkdir()
        tables.write_cells(preds / part, [frame])
    session, _ = session_of(preds)
    assert "disagreement" in session.strategies
    assert session.next_cells("disagreement")[0] == 4
    session.answers.close()
    session, _ = session_of(preds, against=[preds])
    assert session.strategies["disagreement"].by_source
    session.answers.close()


def test_what_does_not_fit_is_refused_in_one_line(preds: Path) -> None:
    out = str(preds.parent / "review")
    with pytest.raises(ConfigError, match="holds no review"):
        review.main(["--preds", str(preds), "--out", out, "--summary"])
    with pytest.raises(ConfigError, match="--quiet would hide the address"):
        review.main(["--preds", str(preds), "--quiet"])
    with pytest.raises(ConfigError, match="--port"):
        review.main(["--preds", str(preds), "--port", "99999"])
    tables.write_cells(preds, [tables.read_cells(preds).assign(rle="", ID="strange")[:2]])
    with pytest.raises(DataError, match="strange"):
        session_of(preds)


def test_the_page_works_in_a_browser_and_asks_nobody_else(server: ReviewServer, browser: Any, preds: Path) -> None:
    browser.get(server.address)
    wait_for(browser, 'document.body.dataset.ready === "yes"')
    find = browser.find_element
    assert find("id", "title").text == "Review of <b>preds"
    assert len(find("id", "classes").find_elements("tag name", "button")) == 3
    body = find("tag name", "body")

    def answered(count: int) -> None:
        wait_for(browser, f'document.getElementById("saved").textContent.startsWith("{count} of 6")')

    caption = find("id", "caption").text
    body.send_keys("1")
    answered(1)
    wait_for(browser, f"document.getElementById('caption').textContent !== {json.dumps(caption)}")
    body.send_keys(" 12")
    assert not server.site.session.answers.live()[1:], "several classes wait for Enter"
    body.send_keys("\ue007")
    answered(2)
    assert server.site.session.answers.live()[-1].labels == (0, 1)
    body.send_keys("-")
    answered(3)
    body.send_keys("\ue003")  # backspace
    answered(2)
    assert browser.execute_script("return document.querySelectorAll('#lines path').length") == 1
    body.send_keys("v")
    wait_for(browser, "document.querySelectorAll('#lines path.other').length > 0")
    for number in ("0", "2", "3"):
        find("css selector", f'[name=channel][value="{number}"]').click()
    grey = """const c = document.getElementById("canvas");
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let most = 0, bright = 0;
        for (let i = 0; i < d.length; i += 4) { most = Math.max(most, Math.abs(d[i] - d[i + 1])); bright += d[i]; }
        return most === 0 && bright > 0"""
    assert browser.execute_script(grey), "one channel alone is grey"
    assert not find("id", "hinted").is_displayed()
    find("id", "hints").click()
    assert "Image labels: Nucleoplasm" in find("id", "hinted").text
    find("id", "done").click()
    wait_for(browser, 'document.body.textContent.includes("You may close this page")')
    assert (preds.parent / "review/cells_truth.csv").exists()
    assert all(url.startswith(server.address) for url in requests(browser))
    assert browser.get_log("browser") == []
