"""Downloads of data sets that have a public address.

Files on figshare are looked up by its API when they are wanted, so that address, size and MD5 are the publisher's own:
https://docs.figshare.com (``articles/{id}/files``). They are fetched from ``file/download/{id}`` of the same API, as
figshare.com/ndownloader answers programs with an empty page (github.com/neuromorphs/tonic/pull/337).
"""

from __future__ import annotations

import fnmatch
import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cnd import __version__
from cnd.errors import UserError

GOD_FILES = (24080120, 24080123, 24080126, 24080129, 24080132)
FIGSHARE = "https://api.figshare.com/v2"
ATTEMPTS = 5  # without a single byte gained, before giving up
PAUSE = 2.0  # seconds before the second attempt; doubles
CHUNK = 1 << 20

Advance = Callable[["Remote", int, int | None], None]
"""Progress: which file, bytes that are here, bytes in all where known."""


@dataclass(frozen=True)
class Remote:
    """One file to download."""

    name: str
    url: str
    size: int | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Address:
    """Where files of a data set can be had without asking.

    Attributes:
        article: number of its figshare article.
        wanted: regular expression of the names wanted from there.
        known: figshare's numbers of files that an earlier version of the article had, by name; asked for where
            nothing that the article lists now will do.
        direct: files elsewhere.
    """

    article: int
    wanted: str
    known: dict[str, int] = field(default_factory=dict)
    direct: tuple[Remote, ...] = ()


ADDRESSES = {
    "god": Address(
        7387130,
        r"Subject[1-5](_ImageNet(Training|Test))?\.h5",
        known={f"Subject{k}.h5": number for k, number in enumerate(GOD_FILES, start=1)},
    ),
    "bold5000": Address(
        14456124,
        r"BOLD5000_GLMsingle_ROI_betas\.zip",
        direct=(Remote("BOLD5000_Stimuli.zip", "https://www.dropbox.com/s/5ie18t4rjjvsl47/BOLD5000_Stimuli.zip?dl=1"),),
    ),
}
"""By kind of data. The numbers of GOD's files stand in data/README.md of github.com/KamitaniLab/GenericObjectDecoding;
the address of BOLD5000's images on its download page (bold5000-dataset.github.io/website/download.html)."""


# ---------------------------------------------------------------- what to download


def remotes(address: Address, only: str = "*", api: str = FIGSHARE) -> list[Remote]:
    """The files of a data set that have a public address; asks figshare for size and MD5.

    Args:
        only: pattern of file names, e.g. ``Subject3*``.
        api: figshare's API, or a server that answers like it.

    Raises:
        UserError: figshare cannot be reached, or has none of these files.
    """
    listed = [f for f in _listing(address.article, api) if re.fullmatch(address.wanted, f["name"])]
    names = {f["name"] for f in listed}
    found = [*address.direct, *(_of_figshare(api, f["id"], f["name"], f) for f in listed)]
    if not fnmatch.filter(names, only):
        found += [_of_figshare(api, number, name, {}) for name, number in address.known.items() if name not in names]
    if not any(re.fullmatch(address.wanted, remote.name) for remote in found):
        raise UserError(
            f"{_page(address.article)}: no file {address.wanted} in the article any more; look there, or say "
            f"--figshare-api to ask another server"
        )
    chosen = sorted((r for r in found if fnmatch.fnmatch(r.name, only)), key=lambda remote: remote.name)
    if found and not chosen:
        raise UserError(f"--only '{only}': matches no file; there are {', '.join(sorted(r.name for r in found))}")
    return chosen


def _page(article: int) -> str:
    return f"https://figshare.com/articles/dataset/_/{article}"


def _listing(article: int, api: str) -> list[dict[str, Any]]:
    url = f"{api}/articles/{article}/files?page_size=1000"  # the default page holds ten
    try:
        with _open(url) as response:
            return list(json.load(response))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(f"{url}: no list of files ({error}); try again later, or see {_page(article)}") from error


def _of_figshare(api: str, number: int, name: str, listed: dict[str, Any]) -> Remote:
    md5 = listed.get("computed_md5") or listed.get("supplied_md5") or None
    return Remote(name, f"{api}/file/download/{number}", listed.get("size"), md5)


# ---------------------------------------------------------------- downloading


def download(remote: Remote, folder: Path, advance: Advance) -> Path:
    """One file, complete and with the right checksum; an interrupted download goes on where it was.

    What has arrived lies in ``NAME.part`` meanwhile. A file that is already there is kept if it is right.

    Raises:
        UserError: the server refuses, stays silent, or sends something else than was published.
    """
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    if target.is_file() and _problem(target, remote) is None:
        advance(remote, target.stat().st_size, target.stat().st_size)
        return target
    failures, reason, most = 0, "no answer", part.stat().st_size if part.exists() else 0
    while failures < ATTEMPTS:
        try:
            if _receive(remote, part, advance):
                break
            reason = "the connection ended early"
        except (OSError, http.client.HTTPException) as error:
            _refused(remote, error)
            reason = str(error) or type(error).__name__
        have = part.stat().st_size if part.exists() else 0
        failures, most = (0, have) if have > most else (failures + 1, most)
        time.sleep(PAUSE * 2**failures if failures < ATTEMPTS else 0)
    else:
        raise UserError(f"{remote.url}: {remote.name} stopped ({reason}); the same command goes on where it stopped")
    if (problem := _problem(part, remote)) is not None:
        aside = folder / f"{remote.name}.wrong"
        part.replace(aside)
        raise UserError(
            f"{remote.url}: {remote.name} {problem}; kept as {aside}; run the command again to fetch it anew"
        )
    part.replace(target)
    return target


def _open(url: str, start: int = 0) -> Any:
    """Response of a GET; from byte ``start`` on where the server can."""
    headers = {"User-Agent": f"cnd-decoding/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)


def _receive(remote: Remote, part: Path, advance: Advance) -> bool:
    """Add to ``part`` what the server sends; True when the file is complete."""
    start = part.stat().st_size if part.exists() else 0
    if start and start == remote.size:
        return True
    try:
        opened = _open(remote.url, start)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":  # nothing lies beyond what is here
            return True
        part.unlink()
        return False
    with opened as response:
        if response.status not in (200, 206):
            raise UserError(
                f"{remote.url}: answered {response.status}, expected the file {remote.name}; download it with a browser"
            )
        if response.status == 200:  # the server sends all of it
            start = 0
        total = _total(response, start) or remote.size
        with part.open("ab" if start else "wb") as file:
            have = start + _copy(response, file, lambda n: advance(remote, start + n, total))
    return total is None or have >= total


def _total(response: Any, start: int) -> int | None:
    complete = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if complete:
        return int(complete[1])
    length = response.headers.get("Content-Length")
    return start + int(length) if length else None


def _copy(response: Any, file: IO[bytes], advance: Callable[[int], None]) -> int:
    received = 0
    while block := response.read(CHUNK):
        file.write(block)
        received += len(block)
        advance(received)
    return received


def _refused(remote: Remote, error: Exception) -> None:
    """Tell an answer that no further attempt will change."""
    if not isinstance(error, urllib.error.HTTPError) or error.code >= 500 or error.code in (408, 429):
        return
    page = "look for it on the data set's page"
    raise UserError(f"{remote.url}: {remote.name} refused ({error.code} {error.reason}); {page}") from error


def _problem(path: Path, remote: Remote) -> str | None:
    """What is wrong with a downloaded file, in words."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"has {size} bytes, expected {remote.size}"
    if remote.md5 is None:
        return None
    found = digest(path, "md5")
    return None if found == remote.md5 else f"has MD5 {found}, expected {remote.md5}"


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def unpack(path: Path) -> None:
    """Extract an archive beside itself; files that are there in their full size are left alone.

    Raises:
        UserError: not a readable archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                target = path.parent / member.filename
                if not target.is_file() or target.stat().st_size != member.file_size:
                    archive.extract(member, path.parent)  # never outside of it
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise UserError(f"{path}: not a readable archive ({error}); delete it and fetch it again") from error
