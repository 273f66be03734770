import hashlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import requests

from ecgexp.datasets import download as module
from ecgexp.datasets.download import SOURCES, SUMS, Downloaded, Source, download, main
from ecgexp.datasets.image.medmnist_sets import SETS
from ecgexp.errors import UserError

PTBXL = SOURCES["ptbxl"]
FIRST = "records100/00000/00001_lr.dat"
SIZE = 40_000
ALWAYS = 99  # more faults than any test makes attempts


class Server(ThreadingHTTPServer):
    """Serves `files` as PhysioNet does; `faults` names what goes wrong with the next requests of a file."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/files/ptb-xl/1.0.3/"
        self.modified = 1_600_000_000
        self.faults = {}
        self.ranges = True
        self.requests = []
        self.sent = 0
        random = np.random.default_rng(0)
        names = [name for name in PTBXL.files if name != "LICENSE.txt"]
        for rate, suffix in ((100, "lr"), (500, "hr")):
            for record in (1, 2, 1001):
                stem = f"records{rate}/{record // 1000 * 1000:05d}/{record:05d}_{suffix}"
                names += [f"{stem}.dat", f"{stem}.hea"]
        self.files = {name: random.bytes(SIZE if name.endswith(".dat") else 300) for name in names}
        self.files["LICENSE.txt"] = b""
        self.files["ptbxl_v103_changelog.txt"] = b"not wanted"
        self.list_files()

    def handle_error(self, *_):
        pass  # clients that hang up are part of the tests

    def list_files(self):
        # One space, every file but the list itself: PhysioNet's own format.
        lines = (f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in sorted(self.files.items()))
        self.sums = "".join(lines).encode()

    def wanted(self, rate=100):
        names = {*PTBXL.files, *(name for name in self.files if name.startswith(f"records{rate}/"))}
        return {name: self.files[name] for name in names} | {SUMS: self.sums}

    def asked(self):
        return Counter(name for name, _ in self.requests)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        name = unquote(self.path).removeprefix("/files/ptb-xl/1.0.3/")
        wants = self.headers.get("Range")
        server.requests.append((name, wants))
        faults = server.faults.get(name)
        fault = faults.pop(0) if faults else None
        data = server.sums if name == SUMS else server.files.get(name)
        date = formatdate(server.modified, usegmt=True)
        if isinstance(fault, int) or data is None:
            self.answer(fault or 404, b"<html>no</html>")
            return
        if self.headers.get("If-Modified-Since") == date:
            self.answer(304)
            return
        if fault == "corrupt":
            data = bytes(len(data))
        start = int(re.fullmatch(r"bytes=(\d+)-", wants)[1]) if wants and server.ranges else 0
        if start and start >= len(data):
            self.answer(416)
            return
        headers = {"Last-Modified": date}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        rest = data[start:]
        sent = len(rest) // 2 if fault in ("break", "interrupt") else len(rest)
        self.answer(206 if start else 200, rest[:sent], length=len(rest), **headers)
        if sent < len(rest):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        if fault == "interrupt":
            server.interrupt()

    def answer(self, status, body=b"", length=None, **headers):
        self.server.sent += len(body)
        self.send_response(status)
        for name, value in {"Content-Length": length or len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data" / "ptbxl"


def fetch(server, root, rate=100, **options):
    return download(PTBXL, root, rate, url=server.url, **{"delay": 0, "attempts": 3, **options})


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def one_sentence(error):
    message = str(error.value if hasattr(error, "value") else error).strip()
    assert "\n" not in message and message.endswith(".")
    assert not re.search(r"\. [A-Z]", message)
    return message


# --- what arrives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [100, 500])
def test_it_fetches_the_files_of_the_wanted_rate_and_no_others(server, root, rate):
    done = fetch(server, root, rate)
    assert contents(root) == server.wanted(rate)
    assert done == Downloaded(files=10, fetched=10)
    assert set(server.asked().values()) == {1}


def test_the_other_rate_is_added_to_the_same_folder(server, root):
    fetch(server, root, 100)
    assert fetch(server, root, 500) == Downloaded(files=10, fetched=6)
    assert contents(root) == server.wanted(100) | server.wanted(500)


def test_a_second_run_fetches_nothing(server, root):
    fetch(server, root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    server.requests.clear()
    server.sent = 0
    assert fetch(server, root) == Downloaded(files=10, fetched=0)
    assert server.requests == [(SUMS, None)]  # asks whether it changed
    assert server.sent == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times


def test_a_second_run_fetches_missing_and_damaged_files(server, root):
    fetch(server, root)
    (root / "RECORDS").unlink()
    damaged = bytearray((root / FIRST).read_bytes())
    damaged[7] ^= 1  # same size, one bit
    (root / FIRST).write_bytes(damaged)
    server.requests.clear()
    assert fetch(server, root).fetched == 2
    assert server.asked() == {SUMS: 1, "RECORDS": 1, FIRST: 1}
    assert contents(root) == server.wanted()


def test_a_folder_that_was_downloaded_by_other_means_is_kept(server, root):
    for name, data in server.wanted().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    assert fetch(server, root).fetched == 0
    assert set(server.asked()) == {SUMS}


def test_another_release_on_the_server_replaces_the_changed_files(server, root):
    fetch(server, root)
    server.files["ptbxl_database.csv"] = b"corrected labels"
    server.list_files()
    server.modified += 86_400
    assert fetch(server, root).fetched == 1
    assert contents(root) == server.wanted()


def test_a_damaged_checksum_list_on_disk_is_fetched_again(server, root):
    fetch(server, root)
    time = (root / SUMS).stat().st_mtime
    (root / SUMS).write_text("nonsense")
    module.os.utime(root / SUMS, (time, time))
    assert fetch(server, root).fetched == 0
    assert contents(root) == server.wanted()


def test_another_data_set_is_another_source(server, root):
    server.files |= {
        "100.dat": b"signal",
        "100.hea": b"header",
        "100.atr": b"beats",
        "100.xws": b"not wanted",
        "102-0.atr": b"not wanted",
        "x_mitdb/x_108.atr": b"not wanted",
        "mitdbdir/intro.htm": b"not wanted",
    }
    server.list_files()
    assert download(SOURCES["mitbih"], root, 360, url=server.url).files == 4
    assert set(contents(root)) == {SUMS, "RECORDS", "100.dat", "100.hea", "100.atr"}
    with pytest.raises(UserError, match="--sampling-rate takes 360"):
        download(SOURCES["mitbih"], root, 100, url=server.url)


def test_the_command_knows_the_rate_of_a_data_set_that_has_one(server, tmp_path, monkeypatch, capsys):
    server.files |= {"100.dat": b"signal", "100.hea": b"header", "100.atr": b"beats"}
    server.list_files()
    monkeypatch.chdir(tmp_path)
    assert main(["--dataset", "mitbih", "--url", server.url]) == 0
    out = capsys.readouterr().out
    assert "data/mitbih holds mitbih at 360 Hz: 4 files" in out
    assert "python -m ecgexp -m dataset=mitbih dataset.root=data/mitbih optimizer" in out


# --- images, whose checksums are known beforehand


@pytest.fixture
def images(server, monkeypatch):
    """A set of MedMNIST on the server, with the checksums of what is there."""
    server.files |= {name: np.random.default_rng(3).bytes(SIZE) for name in ("bloodmnist.npz", "bloodmnist_64.npz")}
    sums = {name: hashlib.md5(server.files[name]).hexdigest() for name in ("bloodmnist.npz", "bloodmnist_64.npz")}
    source = Source(server.url, files=(), signals={28: "bloodmnist.npz", 64: "bloodmnist_64.npz"}, sums=sums)
    monkeypatch.setitem(SOURCES, "bloodmnist", source)
    return source


def test_images_come_as_one_file_without_a_list(server, images, root, capsys):
    assert download(images, root, 64, delay=0) == Downloaded(files=1, fetched=1)
    assert contents(root) == {"bloodmnist_64.npz": server.files["bloodmnist_64.npz"]}
    assert server.asked() == {"bloodmnist_64.npz": 1}
    assert download(images, root, 64, delay=0) == Downloaded(files=1, fetched=0)
    assert server.asked() == {"bloodmnist_64.npz": 1}
    assert "of 0 MB" in capsys.readouterr().err  # 40 kB
    with pytest.raises(UserError, match="images of 32 x 32 pixels to download: --size takes 28 or 64"):
        download(images, root, 32)


def test_images_whose_connection_breaks_are_continued(server, images, root):
    server.faults["bloodmnist.npz"] = ["break"]
    download(images, root, 28, delay=0)
    assert contents(root) == {"bloodmnist.npz": server.files["bloodmnist.npz"]}
    (_, first), (_, second) = server.requests
    assert first is None and 0 < int(re.fullmatch(r"bytes=(\d+)-", second)[1]) <= SIZE // 2


def test_images_that_stay_wrong_are_refused(server, images, root):
    server.faults["bloodmnist.npz"] = ["corrupt"] * ALWAYS
    with pytest.raises(UserError) as error:
        download(images, root, 28, delay=0, attempts=2)
    assert "does not match its published MD5 sum" in one_sentence(error)
    assert contents(root) == {}


def test_the_command_downloads_images_and_says_how_to_use_them(server, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--dataset", "bloodmnist", "--size", "64"]) == 0
    assert (tmp_path / "data/medmnist/bloodmnist_64.npz").is_file()
    out = capsys.readouterr().out
    assert "data/medmnist holds bloodmnist at 64 x 64 pixels: 1 file, equal to its checksum, fetched now." in out
    use = "dataset=medmnist dataset.root=data/medmnist dataset.name=bloodmnist dataset.size=64 optimizer"
    assert use in out


@pytest.mark.parametrize("options", [("bloodmnist", "--sampling-rate", "100"), ("ptbxl", "--size", "28")])
def test_a_rate_of_images_or_a_size_of_signals_is_refused(options, capsys):
    assert main(["--dataset", *options]) == 1
    assert f"{options[0]} is chosen by" in one_sentence(capsys.readouterr().err)


def test_each_set_of_medmnist_is_a_source_on_zenodo():
    for name, published in SETS.items():
        source = SOURCES[name]
        assert source.url == "https://zenodo.org/records/10519652/files/"
        assert tuple(source.signals) == (28, 64, 128, 224)
        assert tuple(source.sums.values()) == published.md5
        assert list(source.sums) == [f"{name}{size}.npz" for size in ("", "_64", "_128", "_224")]


# --- what goes wrong and is overcome ----------------------------------------------------------------------


def test_a_connection_that_breaks_half_way_is_continued_where_it_broke(server, root):
    server.faults[FIRST] = ["break"]
    fetch(server, root)
    assert contents(root) == server.wanted()
    first, second = [wants for name, wants in server.requests if name == FIRST]
    assert first is None
    start = int(re.fullmatch(r"bytes=(\d+)-", second)[1])
    assert SIZE // 2 - module.CHUNK < start <= SIZE // 2


def test_a_connection_that_breaks_again_and_again_arrives_as_long_as_it_brings_something(server, root):
    name = "ptbxl_database.csv"
    server.files[name] = np.random.default_rng(1).bytes(40 * module.CHUNK)
    server.list_files()
    server.faults[name] = ["break"] * 4
    fetch(server, root, attempts=1)
    assert contents(root) == server.wanted()
    assert server.asked()[name] == 5


def test_a_server_that_ignores_ranges_sends_the_file_from_its_start(server, root):
    server.ranges = False
    server.faults[FIRST] = ["break"]
    fetch(server, root)
    assert contents(root) == server.wanted()
    assert server.asked()[FIRST] == 2


def test_the_checksum_list_too_survives_a_broken_connection(server, root):
    server.files |= {f"records100/21000/{i:05d}_lr.dat": b"" for i in range(21000, 21300)}
    server.list_files()
    server.faults[SUMS] = ["break"]
    fetch(server, root)
    assert contents(root) == server.wanted()
    assert server.asked()[SUMS] == 2


@pytest.mark.parametrize("fault", [500, 502, 503, 408, 429, "corrupt"])
def test_what_passes_is_tried_again(server, root, fault):
    server.faults |= {SUMS: [fault], FIRST: [fault, fault]}
    fetch(server, root)
    assert contents(root) == server.wanted()
    assert server.asked()[FIRST] == 3


def test_a_leftover_part_is_continued_completed_or_replaced(server, root):
    half, whole, wrong = FIRST, FIRST.replace("00001", "00002"), "records100/01000/01001_lr.dat"
    longer = FIRST.replace(".dat", ".hea")
    leftovers = {
        half: server.files[half][: SIZE // 2],
        whole: server.files[whole],
        wrong: bytes(SIZE // 2),
        longer: server.files[longer] + b"more",
    }
    for name, data in leftovers.items():
        path = root / f"{name}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    fetch(server, root)
    assert contents(root) == server.wanted()
    asked = {name: [wants for other, wants in server.requests if other == name] for name in leftovers}
    assert asked == {
        half: [f"bytes={SIZE // 2}-"],
        whole: [f"bytes={SIZE}-"],
        wrong: [f"bytes={SIZE // 2}-", None],
        longer: ["bytes=304-", None],
    }


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_leaves_a_folder_that_the_next_run_continues(server, root):
    part = root / f"{FIRST}.part"

    def interrupt():
        while (
            not part.exists() or part.stat().st_size <= SIZE // 2 - module.CHUNK
        ):  # until the client has saved what it got
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    server.interrupt = interrupt
    server.faults[FIRST] = ["interrupt"]
    # Between the broken connection and the next attempt lie 60 s, which Ctrl-C must cut short.
    with pytest.raises(KeyboardInterrupt):
        fetch(server, root, delay=60)
    assert SIZE // 2 - module.CHUNK < part.stat().st_size <= SIZE // 2
    assert not (root / FIRST).exists()
    complete = {name: data for name, data in contents(root).items() if not name.endswith(".part")}
    assert complete.items() <= server.wanted().items()

    start, before = part.stat().st_size, server.asked()
    fetch(server, root)
    assert contents(root) == server.wanted()
    assert server.requests.count((FIRST, f"bytes={start}-")) == 1
    assert all(before[name] == server.asked()[name] for name in complete if name != SUMS)


# --- what goes wrong for good -----------------------------------------------------------------------------


def test_content_that_stays_wrong_is_refused_by_name_after_everything_else_arrived(server, root):
    server.faults[FIRST] = ["corrupt"] * ALWAYS
    with pytest.raises(UserError) as error:
        fetch(server, root)
    message = one_sentence(error)
    assert FIRST in message and SUMS in message and "1 of 10 files" in message
    assert server.asked()[FIRST] == 3
    expected = server.wanted()
    del expected[FIRST]
    assert contents(root) == expected


def test_a_file_that_the_server_lacks_is_named_after_everything_else_arrived(server, root):
    server.faults[FIRST] = [404] * ALWAYS
    with pytest.raises(UserError) as error:
        fetch(server, root)
    message = one_sentence(error)
    assert FIRST in message and "404" in message
    assert server.asked()[FIRST] == 1
    assert len(contents(root)) == 10


@pytest.mark.parametrize(("answer", "reason"), [(404, "404"), ("corrupt", "not a list of checksums"), (503, "503")])
def test_no_usable_checksum_list(server, root, answer, reason):
    server.faults[SUMS] = [answer] * ALWAYS
    with pytest.raises(UserError) as error:
        fetch(server, root)
    message = one_sentence(error)
    assert server.url + SUMS in message and reason in message
    assert not (root / SUMS).exists()


def test_a_server_that_is_down(root):
    with Server() as server:
        pass  # closed again, so that no process listens on its port
    with pytest.raises(UserError) as error:
        fetch(server, root)
    assert server.url in one_sentence(error) and "no connection" in one_sentence(error)


def test_a_server_that_fails_for_good_ends_the_run_soon(server, root):
    for name in server.files:
        server.faults[name] = [503] * ALWAYS
    with pytest.raises(UserError) as error:
        fetch(server, root, connections=1)
    assert "503" in one_sentence(error)
    assert len(server.requests) < 2 * 3 + 2


def test_a_server_that_does_not_answer(server, root, monkeypatch):
    def silent(*_, **__):
        raise requests.ReadTimeout

    monkeypatch.setattr(requests.Session, "get", silent)
    with pytest.raises(UserError) as error:
        fetch(server, root)
    assert "no answer in time" in one_sentence(error)


def test_the_folder_of_something_else(server, root):
    server.files = {name: data for name, data in server.files.items() if "records100" not in name}
    server.list_files()
    with pytest.raises(UserError) as error:
        fetch(server, root)
    assert "records100/" in one_sentence(error) and PTBXL.url in one_sentence(error)


def test_a_list_that_points_outside_the_folder_is_refused(server, root):
    server.files["records100/../../escaped"] = b"bad"
    server.list_files()
    with pytest.raises(UserError) as error:
        fetch(server, root)
    assert "not a list of checksums" in one_sentence(error)
    assert not root.exists() or not contents(root)


def test_a_list_that_is_cut_off_is_refused(server, root):
    server.sums = server.sums[:-3]
    with pytest.raises(UserError) as error:
        fetch(server, root)
    assert "not a list of checksums" in one_sentence(error)


def test_a_server_that_never_answers_is_reported_after_three_attempts(server, root):
    server.faults[SUMS] = [503] * ALWAYS
    with pytest.raises(UserError):
        fetch(server, root, attempts=7)
    assert server.asked()[SUMS] == 3


def test_the_beginning_of_another_releases_list_is_not_continued(server, root):
    root.mkdir(parents=True)
    line = f"{'0' * 64} {'x' * 20}\n".encode()
    (root / f"{SUMS}.part").write_bytes(line)
    server.sums = line.replace(b"x", b"y") + server.sums
    fetch(server, root)
    assert contents(root) == server.wanted()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk(server, root):
    part = root / f"{FIRST}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(UserError) as error:
        fetch(server, root)
    assert "No space left on device" in one_sentence(error) and "--root" in one_sentence(error)


def test_a_root_that_is_a_file(server, root):
    root.parent.mkdir()
    root.write_text("here already")
    with pytest.raises(UserError) as error:
        fetch(server, root)
    assert str(root) in one_sentence(error)
    assert root.read_text() == "here already"


@pytest.mark.parametrize("url", ["physionet.org/files", "ftp://physionet.org/", "http://", "data/ptbxl"])
def test_an_address_that_is_none(root, url):
    with pytest.raises(UserError) as error:
        download(PTBXL, root, 100, url=url)
    assert "--url" in one_sentence(error)
    assert not root.exists()


# --- the command line -------------------------------------------------------------------------------------


def test_the_command_prints_where_the_data_are_and_how_to_use_them(server, root, capsys):
    assert main(["--url", server.url.rstrip("/"), "--root", str(root)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert str(root) in out[0] and "100 Hz" in out[0] and "10 files" in out[0]
    assert f"python -m ecgexp -m dataset=ptbxl dataset.root={root} " in out[1]

    assert main(["--url", server.url, "--root", str(root), "--sampling-rate", "500"]) == 0
    assert "dataset.sampling_rate=500" in capsys.readouterr().out


def test_the_default_folder(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--url", server.url]) == 0
    assert contents(tmp_path / "data" / "ptbxl") == server.wanted()


def test_a_rate_that_does_not_exist(capsys, root):
    assert main(["--sampling-rate", "250", "--root", str(root)]) == 1
    message = one_sentence(capsys.readouterr().err)
    assert "250" in message and "100 or 500" in message


def test_ctrl_c_on_the_command_line(monkeypatch, capsys, root):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "download", interrupted)
    assert main(["--root", str(root)]) == 130
    assert "again" in one_sentence(capsys.readouterr().err)


@pytest.mark.slow
def test_the_module_fails_with_one_sentence_and_status_1(server, root):
    url = server.url.replace("1.0.3", "9.9.9")
    command = [sys.executable, "-m", "ecgexp.datasets.download", "--url", url, "--root", str(root)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout == ""
    assert url in one_sentence(result.stderr)


def test_importing_the_datasets_does_not_import_this_module():
    code = "import sys, ecgexp.datasets; sys.exit('ecgexp.datasets.download' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
