"""Download a published data set from PhysioNet or Zenodo: ``python -m ecgexp.datasets.download``.

PhysioNet serves each release as a plain folder whose ``SHA256SUMS.txt`` names every file, and its servers
answer range requests. This module exists because `wfdb.dl_files` neither checks these sums nor retries, and
downloads only the newest release. The files of MedMNIST are on Zenodo; their MD5 sums are known here.

The folder itself is the state of a download. A file under its own name is complete and has been checked. An
incomplete file has the suffix ``.part`` and is continued. So to resume a stopped download, run the command again. That
also repairs files that were damaged later.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from threading import Event
from urllib.parse import quote

from ecgexp.extras import require_train

if __name__ == "__main__":
    require_train()  # before the imports below fail without the extra

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from ecgexp import __version__
from ecgexp.datasets.image.medmnist_sets import SETS, SEVERAL, SIZES, URL, Published, file_name
from ecgexp.errors import UserError

SUMS = "SHA256SUMS.txt"
TIMEOUT = (10.0, 30.0)  # seconds: to connect, and between two packets
# When the connection breaks, urllib3 drops the unfinished chunk, so chunks are small.
CHUNK = 8192
INTERVAL = 0.5  # seconds between two looks at what has been received
MD5_DIGITS = 32

Check = Callable[[Path], str | None]


@dataclass(frozen=True)
class Source:
    """Where a data set is published, and which of its files are wanted.

    Attributes
    ----------
    url : str
        Folder of the release.
    files : tuple of str
        Files that are needed in every case.
    signals : mapping of int to str
        Pattern of the signal files, by sampling rate in Hz, or of the images, by size in pixels; the first is the
        default.
    sums : mapping of str to str, optional
        MD5 sums of the files, by name, where the server has no ``SHA256SUMS.txt``.
    """

    url: str
    files: tuple[str, ...]
    signals: Mapping[int, str]
    sums: Mapping[str, str] | None = None

    @property
    def option(self) -> str:
        """The option that chooses one of `signals`."""
        return "--sampling-rate" if self.sums is None else "--size"

    def named(self, variant: int) -> str:
        """One of `signals` in words."""
        return f"{variant} Hz" if self.sums is None else f"{variant} x {variant} pixels"


def _images(name: str, published: Published) -> Source:
    """A set of MedMNIST."""
    files = {size: file_name(name, size) for size in SIZES}
    sums = dict(zip(files.values(), published.md5, strict=True))
    return Source(URL, files=(), signals=files, sums=sums)


SOURCES = {
    "ptbxl": Source(
        url="https://physionet.org/files/ptb-xl/1.0.3/",
        files=("LICENSE.txt", "RECORDS", "ptbxl_database.csv", "scp_statements.csv"),
        signals={100: "records100/*", 500: "records500/*"},
    ),
    "mitbih": Source(
        url="https://physionet.org/files/mitdb/1.0.0/",
        files=("RECORDS",),
        signals={360: "[12][0-9][0-9].[adh][aet][art]"},  # .atr, .dat, .hea
    ),
    **{name: _images(name, published) for name, published in SETS.items()},
}


@dataclass(frozen=True)
class Downloaded:
    """Result of `download`: number of files in the data set, and how many of them were fetched."""

    files: int
    fetched: int


class _Refused(Exception):
    """The server answers, but does not send this file, or sends a wrong one."""


class _Stopped(Exception):
    """The whole download shall stop."""


def download(
    source: Source,
    root: Path,
    rate: int,
    *,
    url: str | None = None,
    connections: int = 8,
    attempts: int = 7,
    delay: float = 0.5,
) -> Downloaded:
    """Download the files of `source` at one rate or size into `root`, and check each against its published checksum.

    Parameters
    ----------
    source : Source
        One of `SOURCES`, or another folder with a ``SHA256SUMS.txt``.
    root : Path
        Destination folder; files in it that match their checksums are kept.
    rate : int
        One of `source.signals`: a sampling rate in Hz, or a size in pixels.
    url : str, optional
        Folder of a mirror, in place of `source.url`.
    connections : int
        Files fetched at a time. PhysioNet limits the speed of each connection, not of each user.
    attempts : int
        A file fails after so many attempts in a row that bring no further byte.
    delay : float
        Seconds to wait before the next attempt; doubled with each such failure in a row.

    Returns
    -------
    Downloaded

    Raises
    ------
    UserError
        If the server cannot be reached, lacks a file or sends a wrong one, or if `root` cannot be written.
        Missing and wrong files are reported after all others have been fetched.
    """
    url = (url or source.url).rstrip("/") + "/"
    if rate not in source.signals:
        rates = " or ".join(map(str, source.signals))
        what = "records at" if source.sums is None else "images of"
        raise UserError(f"There are no {what} {source.named(rate)} to download: {source.option} takes {rates}.")
    if not re.match(r"https?://[^/]", url):
        raise UserError(f"The address {url} is not a web address: --url takes one such as {source.url}.")
    try:
        with requests.Session() as session:
            folder = _Folder(session, url, root, connections, attempts, delay)
            wanted = _select(source.sums or folder.checksums(), source, rate, url)
            return _fetch_all(folder, wanted, connections)
    except OSError as error:
        raise UserError(
            f"{error.filename or root} cannot be written ({error.strerror or error}): "
            "correct that or choose another folder with --root, then run the same command again to continue."
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgexp.datasets.download",
        description="Download a data set and check its checksums. Run it again to continue or to repair a download.",
    )
    parser.add_argument("--dataset", choices=SOURCES, default="ptbxl", help="default: %(default)s")
    parser.add_argument("--sampling-rate", type=int, metavar="HZ", help="of ptbxl: 100, the default, or 500")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="of images: 28, the default, 64, 128 or 224")
    parser.add_argument("--root", type=Path, help="folder to fill (default: data/<dataset>, of images data/medmnist)")
    parser.add_argument("--url", help="folder of a mirror of PhysioNet or Zenodo")
    options = parser.parse_args(argv)

    source = SOURCES[options.dataset]
    images = source.sums is not None
    given, other = (options.size, options.sampling_rate) if images else (options.sampling_rate, options.size)
    if other is not None:
        print(f"{options.dataset} is chosen by {source.option} and by nothing else.", file=sys.stderr)
        return 1
    default_rate = next(iter(source.signals))
    rate = default_rate if given is None else given
    group = "medmnist" if images else options.dataset
    root = options.root or Path("data", group)
    try:
        done = download(source, root, rate, url=options.url)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped: run the same command again to continue.", file=sys.stderr)
        return 130

    use = ["python", "-m", "ecgexp", "-m", f"dataset={group}", f"dataset.root={root}"]
    if images:
        use.append(f"dataset.name={options.dataset}")
    if rate != default_rate:
        use.append(f"dataset.{'size' if images else 'sampling_rate'}={rate}")
    if images and options.dataset in SEVERAL:
        use += ["target=multilabel", "loss=bce"]
    print(
        f"{root} holds {options.dataset} at {source.named(rate)}: {_counted(done)}.\n"
        f"Use it: {shlex.join(use)} optimizer=sgd,adam lr=0.001,0.01"
    )
    return 0


def _counted(done: Downloaded) -> str:
    if done.files == 1:
        return f"1 file, equal to its checksum, {'fetched now' if done.fetched else 'here already'}"
    return f"{done.files:,} files, each equal to its checksum, {done.fetched:,} of them fetched now"


class _Folder:
    """A folder on a server and its copy on disk; its methods may run in several threads at once."""

    def __init__(
        self,
        session: requests.Session,
        url: str,
        root: Path,
        connections: int,
        attempts: int,
        delay: float,
    ) -> None:
        self.session, self.url, self.root = session, url, root
        self.attempts, self.delay = attempts, delay
        self.stop = Event()
        # Of all files so far, for the progress bar: several threads add to it, and it need not be exact.
        self.received = self.expected = 0
        # Byte positions in a compressed answer differ from those in the file, so it could not be continued.
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": f"ecgexp/{__version__}"})
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=connections))

    def checksums(self) -> dict[str, str]:
        """Names and SHA-256 sums of all published files; fetched again if the server's list has changed."""
        path = self.root / SUMS
        # A list continued from another release's part would look valid.
        _part(path).unlink(missing_ok=True)
        headers = {}
        if path.exists() and _check_sums(path) is None:
            headers["If-Modified-Since"] = formatdate(path.stat().st_mtime, usegmt=True)
        try:
            # If the server cannot be reached at all, the user should know soon.
            self.fetch(SUMS, _check_sums, min(self.attempts, 3), headers)
        except _Refused as error:
            raise UserError(
                f"{self.url}{SUMS} cannot be downloaded ({error}): --url must be the folder of a release on a "
                "working server."
            ) from error
        return _read_sums(path)

    def obtain(self, name: str, digest: str) -> int | None:
        """Fetch a file unless it is here already; returns its size in bytes, or None if nothing was fetched."""
        if self.stop.is_set():
            raise _Stopped
        path = self.root / name
        if _sum(path, digest) == digest:
            return None
        wrong = f"its content does not match {SUMS if len(digest) > MD5_DIGITS else 'its published MD5 sum'}"
        self.fetch(name, lambda part: None if _sum(part, digest) == digest else wrong, self.attempts, {})
        return path.stat().st_size

    def fetch(self, name: str, check: Check, attempts: int, headers: Mapping[str, str]) -> None:
        """Fetch a file into place; give up after `attempts` attempts in a row that bring no further byte."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _part(path)
        most, failures = _size(part), 0
        while True:
            lost = None
            try:
                if not self._receive(name, part, headers):
                    return
                problem = check(part)
                if problem is None:
                    part.replace(path)
                    return
                part.unlink()
            except requests.RequestException as error:
                lost, problem = error, _reason(error)
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures == attempts and lost is None:
                raise _Refused(f"{problem}, {attempts} times")
            if failures == attempts:
                raise UserError(
                    f"{self.url}{name} cannot be fetched ({problem}, {attempts} times): check the network or "
                    "name a mirror with --url, then run the same command again to continue."
                ) from lost
            if self.stop.wait(self.delay * 2**failures):
                raise _Stopped

    def _receive(self, name: str, part: Path, headers: Mapping[str, str]) -> bool:
        """Append the missing rest of a file to `part`; False if the file on disk is up to date."""
        start = _size(part)
        if start:
            headers = {**headers, "Range": f"bytes={start}-"}
        with self.session.get(self.url + quote(name), headers=headers, stream=True, timeout=TIMEOUT) as response:
            status = response.status_code
            if status == requests.codes.not_modified:
                return False
            if status == requests.codes.requested_range_not_satisfiable:
                return True  # `part` is complete or too long: the check decides
            if 400 <= status < 500 and status not in (408, 429):
                raise _Refused(f"the server answers {status} {response.reason}")
            response.raise_for_status()
            continued = status == requests.codes.partial_content
            self.expected = self.received + int(response.headers.get("Content-Length", 0))
            with part.open("ab" if continued else "wb") as file:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    self.received += len(chunk)
                    if self.stop.is_set():
                        raise _Stopped
            # Keep the server's date, so that If-Modified-Since compares dates of one clock.
            with suppress(KeyError, ValueError):
                modified = parsedate_to_datetime(response.headers["Last-Modified"]).timestamp()
                os.utime(part, (modified, modified))
        return True


def _select(sums: Mapping[str, str], source: Source, rate: int, url: str) -> dict[str, str]:
    """The wanted files and their checksums."""
    signals = {name: digest for name, digest in sums.items() if fnmatchcase(name, source.signals[rate])}
    absent = [name for name in source.files if name not in sums]
    if not signals:
        absent.append(source.signals[rate])
    if absent:
        raise UserError(f"{url}{SUMS} does not list {absent[0]}: --url must be a copy of {source.url}.")
    return {name: sums[name] for name in source.files} | signals


def _fetch_all(folder: _Folder, wanted: Mapping[str, str], connections: int) -> Downloaded:
    """Obtain all files, several at a time; report refused files at the end."""
    fetched, refused = 0, []
    with (
        ThreadPoolExecutor(connections) as pool,
        tqdm(desc=str(folder.root), total=len(wanted), unit=" files") as bar,
    ):
        try:
            names = {pool.submit(folder.obtain, name, digest): name for name, digest in wanted.items()}
            for future in _completed(names, folder, bar):
                try:
                    size = future.result()
                except _Refused as error:
                    refused.append(f"{names[future]} ({error})")
                    continue
                if size is not None:
                    fetched += 1
                bar.update()
        except BaseException:
            folder.stop.set()  # leaving the pool waits for its threads
            raise
    if refused:
        raise UserError(
            f"{len(refused):,} of {len(wanted):,} files cannot be downloaded from {folder.url}, the first is "
            f"{refused[0]}: run the same command again later, or name a mirror with --url."
        )
    return Downloaded(len(wanted), fetched)


def _completed(names: Mapping[Future[int | None], str], folder: _Folder, bar: tqdm) -> Iterator[Future[int | None]]:
    """Downloads as they complete; the bar shows meanwhile what has been received."""
    left = set(names)
    while left:
        done, left = wait(left, INTERVAL, FIRST_COMPLETED)
        if folder.received:
            of = f" of {folder.expected / 1e6:,.0f}" if len(names) == 1 else ""
            bar.set_postfix_str(f"{folder.received / 1e6:,.0f}{of} MB fetched")
        yield from done


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sum(path: Path, like: str) -> str | None:
    """Checksum of a file, of the same kind as another one; None if the file is missing."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5" if len(like) == MD5_DIGITS else "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _read_sums(path: Path) -> dict[str, str]:
    """Read checksums by file name; each line is a checksum, white space and a relative path."""
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        raise ValueError("cut off")
    sums = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})\s+\*?(\S.*)", line)
        if match is None:
            raise ValueError(line)
        name = PurePosixPath(match[2])
        # A server must not be able to write outside the folder.
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(line)
        sums[str(name)] = match[1]
    return sums


def _check_sums(path: Path) -> str | None:
    try:
        _read_sums(path)
    except ValueError:
        return "the server's answer is not a list of checksums"
    return None


def _reason(error: requests.RequestException) -> str:
    """Short reason of a failed request; the most specific class comes first."""
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not trusted"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not connect"
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    return "no connection"


if __name__ == "__main__":
    sys.exit(main())
