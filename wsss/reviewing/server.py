"""The page of a review, served to browsers on this machine alone.

It listens on the loopback address. Every address begins with a secret token, so other users of the machine cannot read
along; requests that name another host (DNS rebinding) or come from another page are refused; the page itself may load
nothing from elsewhere (content security policy).
"""

import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np

from wsss.core.checks import ConfigError, UserError, check_choice
from wsss.core.files import without_nan
from wsss.core.labels import parse_label
from wsss.core.reading import parse_json
from wsss.data.catalog import DataSet
from wsss.reports.figures import colour
from wsss.reports.overlay import LEAST_RANGE
from wsss.reports.page import channel_colour, css_colour, outline_paths
from wsss.reviewing.answers import LONGEST, TRUTH
from wsss.reviewing.session import Session

MARGINS = {"near": 0.15, "far": 1.0}
"""Surroundings shown on each side of a cell, as a share of its longer edge; the view 'field' shows the whole image."""
VIEWS = (*MARGINS, "field")
LEAST_EDGE = 24
"""Least width of a window, in stored px."""
KEPT = 8
"""Images whose label maps are kept in memory."""

Window = tuple[int, int, int, int]
"""y0, x0, y1, x1 in stored pixels, half-open."""


@dataclass(frozen=True)
class _Field:
    label_map: np.ndarray
    """(h, w) int32, the content at stored size."""
    ranges: list[tuple[int, int]]
    """Grey levels between which each channel is shown."""


class Views:
    """Draws cells of a data set. Not for several threads at once."""

    def __init__(self, data: DataSet) -> None:
        self.data = data
        self._places = {name: i for i, name in enumerate(data.ids)}
        self._field = lru_cache(KEPT)(self._read)

    def place(self, name: str) -> int:
        """Return the number of an image in the data set."""
        return self._places[name]

    def window(self, i: int, box: np.ndarray, view: str) -> Window:
        """Return the part of image i that is shown of a cell, a square where the image has room for it.

        Args:
            i: number of the image.
            box: y0 x0 y1 x1 of the cell in pixels of the original image.
            view: out of VIEWS.
        """
        geometry = self.data.geometry(i)
        height, width = geometry.content_height, geometry.content_width
        if view == "field":
            return 0, 0, height, width
        y0, x0, y1, x1 = np.asarray(box, np.float64) * geometry.scale
        edge = int(max(LEAST_EDGE, np.ceil(max(y1 - y0, x1 - x0) * (1 + 2 * MARGINS[view]))))
        top, left = (round((a + b - edge) / 2) for a, b in ((y0, y1), (x0, x1)))
        top, left = max(0, min(top, height - edge)), max(0, min(left, width - edge))
        return top, left, min(height, top + edge), min(width, left + edge)

    def outlines(self, i: int, cell_id: int, window: Window) -> tuple[str, list[str]]:
        """Return the outline of a cell ('' if it has no pixel left at stored size) and those of its neighbours.

        Raises:
            DataError: the label map is missing or damaged.
        """
        y0, x0, y1, x1 = window
        paths = outline_paths(self._field(i).label_map[y0:y1, x0:x1])
        return paths.pop(cell_id, ""), list(paths.values())

    def ranges(self, i: int) -> list[tuple[int, int]]:
        """Return for each channel of image i the grey levels that are shown as black and as full brightness."""
        return self._field(i).ranges

    def plane(self, i: int, channel: int, window: Window) -> bytes:
        """Return a window of one channel as PNG.

        Raises:
            DataError: the stored pixels are damaged.
        """
        y0, x0, y1, x1 = window
        part = self.data.image(i)[channel, y0:y1, x0:x1]
        done, encoded = cv2.imencode(".png", part, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert done, "OpenCV encodes every uint8 plane"
        return bytes(encoded)

    def describe(self, i: int) -> dict[str, Any]:
        """Return labels (ids, None if unknown) and carried columns of image i."""
        label = self.data.table["Label"].iloc[i]
        labels = parse_label(label) if self.data.has_labels[i] else None
        carried = {str(name): str(self.data.carried[name].iloc[i]) for name in self.data.carried}
        return {"labels": labels, "carried": {name: text for name, text in carried.items() if text}}

    def _read(self, i: int) -> _Field:
        geometry = self.data.geometry(i)
        content = (slice(0, geometry.content_height), slice(0, geometry.content_width))
        label_map = geometry.labels_to_store(self.data.cells(i))[content]
        planes = self.data.image(i)[(slice(None), *content)]
        limits = [np.percentile(plane[::2, ::2], (5, 99.7)) for plane in planes]
        return _Field(label_map, [(int(low), int(max(high, low + LEAST_RANGE))) for low, high in limits])


HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a browser may ask for the page, whatever the port: it may come through an SSH tunnel."""
REFUSED = b"refused: open the address that wsss review printed"
MOST_BODY = 10_000
"""Bytes of a request at most."""
PAGE = {"": "review.html", "review.css": "review.css", "review.js": "review.js"}
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class NotThere(UserError):
    """An address that leads nowhere."""


@dataclass(frozen=True)
class Reply:
    """What is sent back."""

    content: bytes
    kind: str = "application/json"
    more: Mapping[str, str] | None = None
    """Further headers."""


def as_json(value: object) -> Reply:
    """Return a reply of JSON; NaN becomes null."""
    return Reply(json.dumps(without_nan(value)).encode())


class ReviewSite:
    """What each address answers; without the network, so that it can be tested as it is.

    Args:
        folder: of the review, which its files are written to.
    """

    def __init__(self, session: Session, views: Views, folder: Path, title: str) -> None:
        self.session, self.views, self.folder, self.title = session, views, folder, title
        self.done = threading.Event()
        self._views_lock, self._files_lock = threading.Lock(), threading.Lock()

    def get(self, path: str, query: Mapping[str, str]) -> Reply:
        """Answer a request that changes nothing.

        Raises:
            UserError: there is no such address, cell or view, or its image is damaged.
        """
        if path in PAGE:
            name = PAGE[path]
            content = (files("wsss.reviewing") / "page" / name).read_bytes()
            return Reply(content, f"{KINDS[Path(name).suffix]}; charset=utf-8")
        pages: dict[str, Callable[[Mapping[str, str]], Reply]] = {
            "setup": lambda _: as_json(self._setup()),
            "next": self._next,
            "cell": self._cell,
            "plane": self._plane,
            "figures": lambda _: as_json(self._figures()),
            TRUTH: lambda _: self._truth(),
        }
        if path not in pages:
            raise NotThere(f"there is no {path}.")
        return pages[path](query)

    def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """Answer a request that changes something.

        Raises:
            UserError: there is no such address or cell, or the disk refuses it.
        """
        if path == "answer":
            labels, seconds = body["labels"], float(body.get("seconds", 0))
            if not 0 <= seconds <= LONGEST:
                raise ConfigError(f"seconds is {seconds}, expected from 0 to {LONGEST:g}.")
            queue = self.session.check(str(body["strategy"]), _class_id(body.get("class")))
            if not isinstance(labels, list):
                raise ConfigError(f"labels is {labels!r}, expected a list of class ids.")
            ids = [int(label) for label in labels]
            self.session.answer(int(body["row"]), queue, ids, seconds, bool(body.get("hints")))
            return as_json(self.session.counts() | {"rows": self.session.next_cells(queue)})
        if path == "undo":
            return as_json({"row": self.session.undo()} | self.session.counts())
        if path == "done":
            self._write()
            self.done.set()
            return as_json(self.session.counts() | {"folder": str(self.folder)})
        raise NotThere(f"there is no {path}.")

    def _setup(self) -> dict[str, Any]:
        data, session = self.views.data, self.session
        return {
            "title": self.title,
            "classes": [{"name": name, "colour": css_colour(colour(k))} for k, name in enumerate(data.classes.names)],
            "channels": [
                {"name": name, "colour": css_colour(channel_colour(tint)), "on": bool(tint)}
                for name, tint in zip(data.channels, data.tints, strict=True)
            ],
            "strategies": [
                {"key": key, "title": strategy.title, "about": strategy.about, "by_class": strategy.by_class}
                for key, strategy in session.strategies.items()
            ],
            "views": list(VIEWS),
            "counts": session.counts(),
            "threshold": session.judged.threshold,
            "folder": str(self.folder),
        }

    def _next(self, query: Mapping[str, str]) -> Reply:
        queue = self.session.check(query.get("strategy", "random"), _class_id(query.get("class")))
        return as_json({"rows": self.session.next_cells(queue)})

    def _row(self, query: Mapping[str, str]) -> int:
        row = int(query["row"])
        if not 0 <= row < len(self.session.population):
            raise NotThere(f"there is no cell {row}.")
        return row

    def _window(self, query: Mapping[str, str]) -> tuple[int, int, Window]:
        row, view = self._row(query), query.get("view", "near")
        check_choice("view", view, VIEWS)
        population = self.session.population
        i = self.views.place(population.names[population.image[row]])
        return row, i, self.views.window(i, population.boxes[row], view)

    def _cell(self, query: Mapping[str, str]) -> Reply:
        row, i, window = self._window(query)
        name, cell_id = self.session.population.cell(row)
        self.session.mark(name)  # refuses an image that has changed since the prediction
        with self._views_lock:
            path, others = self.views.outlines(i, cell_id, window)
            ranges = self.views.ranges(i)
        scores = self.session.population.scores[row]
        return as_json(
            {
                "row": row,
                "image": name,
                "cell": cell_id,
                "size": [window[2] - window[0], window[3] - window[1]],
                "path": path,
                "others": others,
                "ranges": ranges,
                "scores": [round(float(score), 3) for score in scores],
            }
            | self.views.describe(i)
        )

    def _plane(self, query: Mapping[str, str]) -> Reply:
        _, i, window = self._window(query)
        channel = int(query["channel"])
        if not 0 <= channel < len(self.views.data.channels):
            raise NotThere(f"there is no channel {channel}.")
        with self._views_lock:
            return Reply(self.views.plane(i, channel, window), "image/png", {"Cache-Control": "private, max-age=3600"})

    def _figures(self) -> dict[str, Any]:
        self._write()
        return self.session.record(self.session.figures())

    def _truth(self) -> Reply:
        self._write()
        more = {"Content-Disposition": f'attachment; filename="{TRUTH}"'}
        return Reply((self.folder / TRUTH).read_bytes(), "text/csv; charset=utf-8", more)

    def _write(self) -> None:
        with self._files_lock:
            self.session.write(self.folder)


def _class_id(text: object) -> int | None:
    return None if text in (None, "") else int(str(text))


class ReviewServer(ThreadingHTTPServer):
    """Serves a site on the loopback address.

    Args:
        port: 0 for a free one.

    Raises:
        ConfigError: the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(self, site: ReviewSite, port: int = 0) -> None:
        self.site, self.token = site, secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ConfigError(f"--port {port} cannot be used ({error.strerror}): choose another, or 0.") from error

    @property
    def address(self) -> str:
        """Address of the page; whoever knows it may answer."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"

    def serve(self) -> None:
        """Serve until the page says that the review is done, or the process is interrupted."""
        worker = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        worker.start()
        try:
            self.site.done.wait()
            time.sleep(0.2)  # the answer to the page is on its way
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection: checks the request, then passes it to the site."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "wsss", ""
    timeout = 120
    server: ReviewServer

    def do_GET(self) -> None:
        self._reply(lambda path, query: self.server.site.get(path, query))

    def do_POST(self) -> None:
        def act(path: str, query: Mapping[str, str]) -> Reply:
            if self.headers.get_content_type() != "application/json":
                raise ConfigError("the body must be JSON.")
            body = parse_json(self.rfile.read(self._length()), "the request")
            if not isinstance(body, dict):
                raise ConfigError("the body must be a JSON object.")
            return self.server.site.post(path, body)

        self._reply(act)

    def _reply(self, act: Callable[[str, Mapping[str, str]], Reply]) -> None:
        try:
            parts = urlsplit(self.path)
            _, token, path = (*parts.path.split("/", 2), "", "")[:3]
            if self._refused(token):
                self._send(HTTPStatus.FORBIDDEN, Reply(REFUSED, "text/plain"))
                return
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            self._send(HTTPStatus.OK, act(path, query))
        except NotThere as error:
            self._send(HTTPStatus.NOT_FOUND, as_json({"error": str(error)}))
        except (
            UserError,
            KeyError,
            ValueError,
            TypeError,
            OverflowError,
        ) as error:  # a request that makes no sense, or a bad image
            self._send(HTTPStatus.BAD_REQUEST, as_json({"error": str(error)}))

    def _refused(self, token: str) -> bool:
        """Return whether the request comes from somebody who was not given the address."""
        host = re.sub(r":\d+$", "", self.headers.get("Host") or "")
        origin = self.headers.get("Origin")
        foreign = origin is not None and urlsplit(origin).netloc != self.headers.get("Host")
        other_site = self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        return (
            host not in HOSTS
            or foreign
            or (other_site and self.command != "GET")
            or not hmac.compare_digest(token.encode(), self.server.token.encode())
        )

    def _length(self) -> int:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= MOST_BODY:
            self.close_connection = True
            raise ConfigError(f"the request has {length} bytes, expected {MOST_BODY} at most.")
        return length

    def _send(self, status: HTTPStatus, reply: Reply) -> None:
        if status != HTTPStatus.OK:
            self.close_connection = True  # a body may be left unread
        self.send_response(status)
        headers = {"Content-Type": reply.kind, "Content-Length": str(len(reply.content))}
        for name, value in (HEADERS | headers | dict(reply.more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.content)

    def log_message(self, format: str, *args: object) -> None:
        """Do not log single requests."""

    def handle(self) -> None:
        """Serve the connection; a browser that goes away is no error."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
