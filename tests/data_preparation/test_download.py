"""data_preparation/download.py against a server on this machine that misbehaves in every way that
we know.
"""

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_preparation import download
from data_preparation.importing import connection, fetching
from util.processes.program import run_main

DATA = {
    "a.csv": b"ecg_id,age\n1,50\n",
    "records/00001_hr.dat": bytes(range(256)) * 4000,
    "records/00001_hr.hea": b"00001_hr 12 500 5000\n",
}
BIG = "records/00001_hr.dat"


def listing(data=DATA):
    return "".join(
        f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in data.items()
    ).encode()


class Server:
    """Serves ``files`` (path: content); ``faults`` (path: list of functions) take the place of
    its answers, one each.
    """

    def __init__(self):
        self.files, self.faults, self.asked = {}, {}, []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler):
                path = handler.path.lstrip("/")
                self.asked.append((path, handler.headers.get("Range")))
                fault = self.faults[path].pop(0) if self.faults.get(path) else None
                if path not in self.files:
                    handler.send_error(404)
                elif fault:
                    fault(handler, self.files[path])
                else:
                    answer(handler, self.files[path])

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def answer(handler, content, ranges=True, stop_after=None):
    """The whole file, or from the byte that was asked for."""
    start = 0
    if ranges and handler.headers.get("Range"):
        start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(content):
            return handler.send_error(416)
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    else:
        handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    handler.wfile.write(content[start:][:stop_after])


def break_off(handler, content):
    answer(handler, content, stop_after=300_000)


def without_ranges(handler, content):
    answer(handler, content, ranges=False)


def wrong_byte(handler, content):
    answer(handler, content[:-1] + b"\0")


def status(code):
    return lambda handler, content: handler.send_error(code)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(connection, "BACK_OFF", 0.001)
    server = Server()
    server.files = {"SHA256SUMS.txt": listing(), **DATA}
    yield server
    server.close()


def get(server, output, *flags):
    flags = flags if "--only" in flags else ("--only", "", *flags)
    return fetch("ptbxl", "--url", server.url, "--output", str(output), *flags)


def fetch(*argv):
    """Exit status of the program."""
    return run_main(download.main, list(argv))


def complete(output, data=DATA):
    return all(
        (output / path).read_bytes() == content for path, content in data.items()
    ) and not list(output.rglob("*.part"))


def test_every_file_comes_whole_and_a_second_run_asks_for_the_listing_alone(
    server, tmp_path, capsys
):
    assert get(server, tmp_path) == 0 and complete(tmp_path)
    assert (
        "3 of 3 files listed" in (out := capsys.readouterr().out)
        and "3 files with the right checksum" in out
    )
    server.asked.clear()
    assert get(server, tmp_path) == 0
    assert server.asked == [("SHA256SUMS.txt", None)]


def test_a_connection_that_breaks_off_is_taken_up_where_it_broke(server, tmp_path):
    server.faults[BIG] = [break_off, break_off]
    assert get(server, tmp_path) == 0 and complete(tmp_path)
    assert [asked for path, asked in server.asked if path == BIG] == [
        None,
        "bytes=300000-",
        "bytes=600000-",
    ]


def test_a_stopped_download_goes_on_in_the_next_run(server, tmp_path, capsys):
    server.faults[BIG] = [break_off] + [status(404)]
    assert get(server, tmp_path) == 2
    assert "answers 404" in capsys.readouterr().err
    assert (tmp_path / f"{BIG}.part").stat().st_size == 300_000 and not (tmp_path / BIG).exists()
    server.asked.clear()
    assert get(server, tmp_path) == 0 and complete(tmp_path)
    assert (BIG, "bytes=300000-") in server.asked


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.faults[BIG] = [break_off, without_ranges]
    assert get(server, tmp_path) == 0 and complete(tmp_path)


def test_503_twice_and_then_the_file(server, tmp_path):
    server.faults = {BIG: [status(503), status(503)], "SHA256SUMS.txt": [status(503), status(429)]}
    assert get(server, tmp_path) == 0 and complete(tmp_path)


def test_a_server_that_stays_away_ends_with_a_sentence(server, tmp_path, capsys):
    server.faults["a.csv"] = [status(503)] * 100
    assert get(server, tmp_path) == 2
    assert "tried 6 times" in (err := capsys.readouterr().err) and "--url" in err
    server.close()
    assert get(server, tmp_path) == 2
    assert "cannot reach" in capsys.readouterr().err


def test_a_wrong_byte_once_is_downloaded_again_and_always_is_an_error(server, tmp_path, capsys):
    server.faults[BIG] = [wrong_byte]
    assert get(server, tmp_path / "once") == 0 and complete(tmp_path / "once")
    server.faults[BIG] = [wrong_byte] * 10
    assert get(server, tmp_path / "always") == 2
    assert "its checksum differs" in capsys.readouterr().err
    assert not (tmp_path / "always" / BIG).exists()


def test_a_part_of_another_file_is_found_out_by_the_checksum(server, tmp_path):
    for size in (1000, len(DATA[BIG]), len(DATA[BIG]) + 10):  # the last two are answered 416
        part = tmp_path / str(size) / f"{BIG}.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"x" * size)
        assert get(server, tmp_path / str(size)) == 0 and complete(tmp_path / str(size))


def test_verify_finds_a_file_that_was_changed_here(server, tmp_path):
    assert get(server, tmp_path) == 0
    (tmp_path / "a.csv").write_bytes(b"x" * len(DATA["a.csv"]))
    assert get(server, tmp_path) == 0 and not complete(tmp_path)
    assert get(server, tmp_path, "--verify") == 0 and complete(tmp_path)


@pytest.mark.parametrize("code", [401, 403])
def test_a_set_behind_a_login_says_what_to_do(server, tmp_path, capsys, code):
    server.faults["SHA256SUMS.txt"] = [status(code)]
    assert get(server, tmp_path) == 2
    assert "data use agreement" in (err := capsys.readouterr().err) and "--ask-password" in err


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/evil", "a/../../evil", "a//b", "a\\..\\evil", "C:evil", "a/./b"]
)
def test_paths_outside_of_the_folder_are_refused_before_anything_is_fetched(
    server, tmp_path, capsys, path
):
    server.files["SHA256SUMS.txt"] = listing() + listing({path: b"evil"})
    assert get(server, tmp_path / "out") == 2
    assert "unsafe path" in capsys.readouterr().err
    assert server.asked == [("SHA256SUMS.txt", None)]


@pytest.mark.parametrize("text", [b"<html>\n", b"1234  a.csv\n", b"", b"\xff\xfe"])
def test_a_listing_that_is_none_has_a_sentence(server, tmp_path, capsys, text):
    server.files["SHA256SUMS.txt"] = text
    assert get(server, tmp_path) == 2
    assert "error: " in capsys.readouterr().err


def test_only_what_begins_so(server, tmp_path, capsys):
    assert fetch("ptbxl", "--url", server.url, "--output", str(tmp_path), "--only", "a.csv") == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".csv") == ["a.csv"]
    assert not (tmp_path / "records").exists()
    assert get(server, tmp_path, "--only", "none/") == 2
    assert "none that begins with none/" in capsys.readouterr().err


def _zip(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_zenodo_and_figshare_listings(server, tmp_path):
    data = {"exams.csv": b"exam_id\n1\n", "exams_part0.zip": _zip(inside=b"signals")}
    server.files |= data
    server.files["api/records/1"] = json.dumps(
        {
            "files": [
                {
                    "key": name,
                    "size": len(content),
                    "checksum": "md5:" + hashlib.md5(content).hexdigest(),
                    "links": {"self": server.url + name},
                }
                for name, content in data.items()
            ]
        }
    ).encode()
    server.files["v2/collections/2/articles"] = b'[{"id": 7}]'
    server.files["v2/articles/7"] = json.dumps(
        {
            "files": [
                {
                    "name": name,
                    "size": len(content),
                    "computed_md5": hashlib.md5(content).hexdigest(),
                    "download_url": server.url + name,
                }
                for name, content in data.items()
            ]
        }
    ).encode()
    for name, url in (("code15", "api/records/1"), ("sph", "v2/collections/2/articles")):
        output = tmp_path / name
        assert fetch(name, "--url", server.url + url, "--output", str(output), "--unpack") == 0
        assert complete(output, data) and (output / "inside").read_bytes() == b"signals"


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"key": "a", "size": 1, "checksum": "md5:12", "links": {"self": "http://x/a"}},
        {
            "key": "a",
            "size": 1,
            "checksum": "md5:" + "0" * 32,
            "links": {"self": "file:///etc/passwd"},
        },
    ],
)
def test_damaged_listings_of_zenodo_are_refused(server, tmp_path, capsys, entry):
    server.files["api/records/1"] = json.dumps({"files": [entry]}).encode()
    assert fetch("code15", "--url", server.url + "api/records/1", "--output", str(tmp_path)) == 2
    assert "look up the address" in (err := capsys.readouterr().err) or "unsafe address" in err


def test_other_schemes_and_a_full_disk(server, tmp_path, capsys, monkeypatch):
    assert fetch("ptbxl", "--url", "file:///etc/", "--output", str(tmp_path)) == 2
    assert "must begin with https://" in capsys.readouterr().err

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "sync", full)
    assert get(server, tmp_path) == 2
    assert "the disk is full" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_to_has_a_sentence(server, tmp_path, capsys):
    (tmp_path / "records").write_text("a file where a folder should be")
    assert get(server, tmp_path) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_homes_are_https_and_known_to_our_parsers():
    for home in download.SETS.values():
        assert home.url.startswith("https://")
        assert home.url.endswith("/") or "/api/records/" in home.url or "/collections/" in home.url
