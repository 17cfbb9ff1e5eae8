"""Push and pull by the real client of Hugging Face, against a stand-in for its server on this machine."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from wsss.core.checks import ConfigError
from wsss.inference import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Takes uploads as commits of whole files, and gives them back."""

    files: dict[str, bytes] = {}
    asked: list[str] = []
    refuse = False

    def log_message(self, *what: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        self.asked.append(self.path)
        if self.refuse:
            self._answer({"error": "You need write access."}, 403)
        elif self.path == "/api/repos/create":
            self._answer({"url": "https://huggingface.co/me/it", "id": "me/it", "name": "me/it"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            wanted = [own["path"] for own in json.loads(body)["files"]]
            plain = [{"path": name, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for name in wanted]
            self._answer({"files": plain})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"commitUrl": f"https://huggingface.co/me/it/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._answer({}, 404)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.split("?")[0].partition(f"/resolve/{COMMIT}/")[2]
        if name in self.files:
            self._file(self.files[name])
        elif self.path.startswith("/api/models/me/it"):
            siblings = [{"rfilename": name, "size": len(own)} for name, own in self.files.items()]
            facts = {"_id": "1", "id": "me/it", "modelId": "me/it", "sha": COMMIT, "siblings": siblings}
            tree = [{"type": "file", "path": name, "size": len(own), "oid": "0"} for name, own in self.files.items()]
            self._answer(tree if "/tree/" in self.path else facts | {"tags": [], "private": False})
        else:
            self._answer({"error": "Repository not found"}, 404)

    do_HEAD = do_GET

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _file(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _answer(self, facts: object, code: int = 200) -> None:
        content = json.dumps(facts).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    Hub.files, Hub.asked, Hub.refuse = {}, [], False
    found = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{found.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.create_repo.__self__, "endpoint", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    yield Hub
    found.shutdown()
    found.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    content = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40, "README.md": b"# it\n", "x.tmp": b"-"}
    for name, own in content.items():
        (folder / name).write_bytes(own)
    return folder


def test_what_is_pushed_is_pulled_byte_for_byte_and_nothing_else_goes_along(server: type[Hub], model: Path) -> None:
    hub.push_model(model, "me/it")
    assert set(server.files) == {"config.json", "model.safetensors", "README.md"}
    found = hub.pull_model("me/it")
    for name in server.files:
        assert (found / name).read_bytes() == (model / name).read_bytes()
    asked = len(server.asked)
    assert hub.pull_model("me/it") == found
    assert not [path for path in server.asked[asked:] if "/resolve/" in path], "files that are here are not fetched"


def test_a_server_that_refuses_ends_in_one_line_with_the_way_out(server: type[Hub], model: Path) -> None:
    server.refuse = True
    with pytest.raises(ConfigError, match=r"me/it could not be uploaded .*hf upload me/it") as error:
        hub.push_model(model, "me/it")
    assert "\n" not in str(error.value)


def test_a_model_that_is_not_there_ends_in_one_line(server: type[Hub]) -> None:
    with pytest.raises(ConfigError, match="hf:me/other could not be downloaded") as error:
        hub.pull_model("me/other")
    assert "\n" not in str(error.value)
