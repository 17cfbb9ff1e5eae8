"""The download stage against a local server that misbehaves in every way a real one does."""

import contextlib
import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsss import download
from wsss.core.checks import ConfigError, DataError
from wsss.data.fetch import FetchError, Rate, in_threads
from wsss.options.download import DownloadOptions
from wsss.runs.result_record import STATE
from wsss.stages.download import wanted_images


def jpeg(height: int = 24, width: int = 32, sample: int = 0) -> bytes:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., sample] = np.random.default_rng(sample).integers(0, 255, (height, width))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


GOOD = jpeg()


class Server(ThreadingHTTPServer):
    """Serves every picture, but for the faults asked for: path -> how the next answers go wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Server = self.server  # type: ignore[assignment]
        server.asked[self.path] += 1
        server.agents.add(self.headers["User-Agent"])
        faults = server.faults.get(self.path, [])
        fault = faults.pop(0) if len(faults) > 1 else faults[0] if faults else ""
        if fault.isdecimal():
            self.send_response(int(fault))
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        if fault == "slow":
            time.sleep(1.6)
        body = {"html": b"<html>no</html>", "noise": b"\xff\xd8" + b"x" * 50, "small": jpeg(9, 9)}.get(fault, GOOD)
        self.send_response(302 if fault == "moved" else 200)
        self.send_header("Content-Type", "text/html" if fault == "html" else "image/jpeg")
        if fault == "moved":
            self.send_header("Location", "http://[::1")
        self.send_header("Content-Length", "9" * 5000 if fault == "long" else str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who waited for us has gone
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("wsss.data.fetch.LONGEST_WAIT", 0.01)
    found = Server()
    yield found
    found.shutdown()
    found.server_close()


def run(server: Server, out: Path, *more: str, ids: str = "10580/1610_C1_1") -> int:
    words = ["--ids", ids, "--out", str(out), "--base", server.base, "--rate", "100", "--timeout", "1", *more]
    return download.main(words)


def failed(out: Path) -> dict[tuple[str, str], str]:
    table = pd.read_csv(out / "failed.csv")
    return {(row.ID, row.channel): row.reason for row in table.itertuples()}


def test_both_forms_of_ids_are_fetched_under_the_names_prepare_reads(server: Server, tmp_path: Path) -> None:
    assert run(server, tmp_path, ids="10580/1610_C1_1,19661_221_G1_1") == 0
    ids = ("10580_1610_C1_1", "19661_221_G1_1")
    assert {path.name for path in tmp_path.iterdir() if path.name != STATE} == {
        f"{ID}_{channel}.jpg" for ID in ids for channel in ("red", "green", "blue", "yellow")
    }
    assert server.asked["/19661/221_G1_1_yellow.jpg"] == 1
    assert all(path.read_bytes() == GOOD for path in tmp_path.glob("*.jpg"))
    (agent,) = server.agents
    assert agent.startswith("wsss/")


@pytest.mark.parametrize("fault", ["500", "503", "429", "cut", "slow"])
def test_a_fault_that_passes_is_tried_again(server: Server, tmp_path: Path, fault: str) -> None:
    server.faults["/10580/1610_C1_1_blue.jpg"] = [fault, "ok"]
    assert run(server, tmp_path) == 0
    assert server.asked["/10580/1610_C1_1_blue.jpg"] == 2
    assert (tmp_path / "10580_1610_C1_1_blue.jpg").read_bytes() == GOOD


@pytest.mark.parametrize(
    ("fault", "tries", "reason"),
    [
        ("404", 1, "404"),
        ("403", 1, "403"),
        ("html", 1, "sent text/html, expected a picture"),
        ("noise", 1, "no picture or damaged"),
        ("cut", 3, "after 3 tries"),
        ("500", 3, "500.*after 3 tries"),
        ("slow", 3, "timed out.*after 3 tries"),
    ],
)
def test_a_fault_that_stays_is_listed_and_leaves_no_file(
    server: Server, tmp_path: Path, fault: str, tries: int, reason: str
) -> None:
    server.faults["/10580/1610_C1_1_blue.jpg"] = [fault]
    assert run(server, tmp_path, "--retries", "2", ids="10580/1610_C1_1,19661_221_G1_1") == 1
    found = failed(tmp_path)
    assert list(found) == [("10580_1610_C1_1", "blue")]
    assert pd.Series(found).str.contains(reason).all(), found
    assert server.asked["/10580/1610_C1_1_blue.jpg"] == tries
    assert len(list(tmp_path.glob("*.jpg"))) == 7, "everything else came; no half file, no temporary one"
    assert len([path for path in tmp_path.iterdir() if path.name != STATE]) == 8


def test_starting_again_fetches_only_what_is_missing_and_clears_the_list(server: Server, tmp_path: Path) -> None:
    server.faults["/10580/1610_C1_1_blue.jpg"] = ["404", "ok"]
    assert run(server, tmp_path) == 2, "no image is complete"
    (tmp_path / "10580_1610_C1_1_red.jpg").write_bytes(GOOD[:200])  # damaged by others
    server.asked.clear()
    assert run(server, tmp_path) == 0
    assert server.asked == {"/10580/1610_C1_1_blue.jpg": 1, "/10580/1610_C1_1_red.jpg": 1}
    assert not (tmp_path / "failed.csv").exists()


def test_channels_of_different_sizes_are_listed(server: Server, tmp_path: Path) -> None:
    server.faults["/10580/1610_C1_1_blue.jpg"] = ["small"]
    assert run(server, tmp_path) == 2, "no image is complete"
    assert "blue 9 x 9" in failed(tmp_path)[("10580_1610_C1_1", "all")]


def test_a_server_that_is_not_there_is_listed(server: Server, tmp_path: Path) -> None:
    words = f"--ids 1/2_A_3 --out {tmp_path} --base http://127.0.0.1:9 --retries 0 --timeout 1 --rate 100"
    assert download.main(words.split()) == 2
    assert all("connection failed" in reason for reason in failed(tmp_path).values())


def test_ids_come_from_a_label_table_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ID,Label\n10580_1610_C1_1,[8]\n10580_1610_C1_1,[8]\n")
    words = ["--labels", str(tmp_path / "t.csv"), "--out", str(tmp_path / "o"), "--base", server.base, "--rate", "100"]
    assert download.main(words) == 0
    assert len(list((tmp_path / "o").glob("[!.]*"))) == 4


@pytest.mark.parametrize("ID", ["nothing", "../../etc_a_b_c", "a/../b_c_d", "a/b_c", "/b_c_d"])
def test_what_is_no_id_of_the_atlas_is_refused(tmp_path: Path, ID: str) -> None:
    with pytest.raises(DataError, match=r"antibody/plate_well_site, such as"):
        download.main(["--ids", ID, "--out", str(tmp_path)])


@pytest.mark.parametrize("words", [[], ["--ids", "a/b_c_d", "--base", "file:///etc"], ["--ids", "x", "--labels", "y"]])
def test_options_that_make_no_sense_are_refused(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(ConfigError):
        download.main(["--out", str(tmp_path), *words])


def test_the_rate_holds_over_threads() -> None:
    rate, began = Rate(100), time.monotonic()
    threads = [threading.Thread(target=lambda: [rate.wait() for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 19 / 100


def test_who_interrupts_a_download_waits_for_no_server() -> None:
    rate, answer, began = Rate(1000), threading.Event(), time.monotonic()
    with contextlib.closing(in_threads(lambda item: item == 0 or answer.wait(30), [0, 1, 2], 2, rate)) as fetched:
        assert next(fetched) is True
    assert time.monotonic() - began < 10
    with pytest.raises(FetchError, match="interrupted"):  # in threads that are still at it
        rate.wait()
    answer.set()


def test_an_error_in_a_thread_ends_the_download() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda item: 1 // item, [1, 0, 1], 1, Rate(1000)))


@pytest.mark.parametrize("fault", ["long", "moved"])
def test_answers_with_absurd_headers_fail_one_file_and_end_nothing(fault: str, server: Server, tmp_path: Path) -> None:
    server.faults["/10580/1610_C1_1_blue.jpg"] = [fault]
    code = run(server, tmp_path / "out", "--retries", "0")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"10580_1610_C1_1_{name}.jpg" for name in ("red", "green", "yellow")} <= names
    assert code == (2 if (tmp_path / "out" / "failed.csv").exists() else 0)


def test_more_ids_than_a_file_name_has_letters_are_read(tmp_path: Path) -> None:
    ids = ",".join(f"10580/1610_C1_{k}" for k in range(40))
    assert len(ids) > 255
    assert len(wanted_images(DownloadOptions(out=tmp_path, ids=ids))) == 40
