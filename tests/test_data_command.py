"""``python -m cnd.data``: check, prepare and fetch; downloads from a server on loopback."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
from data_writers import packed_god, write_bold5000, write_bold_images
from test_data_folder import N_TEST, content, write, write_both
from test_data_hcp import write_cifti

from cnd import registry
from cnd.data import hcp
from cnd.data.folder import FolderData
from cnd.data.tools import fetch, inspection
from cnd.data.tools.command import guess_kind, kinds, main
from cnd.protocols import DataSource, FmriDataset

# ---------------------------------------------------------------- fetch


class Server:
    """A server of ranges, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []  # path and Range
        self.cut: list[int] = []  # bytes after which the next answers break off
        self.ranges = True
        self.status = 200
        self.url = ""

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.asked.append((handler.path, asked))
        body = self.files.get(handler.path)
        if body is None or self.status != 200:
            handler.send_response(404 if body is None else self.status)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        beyond = start >= len(body) > 0
        handler.send_response(416 if beyond else 206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes */{len(body)}" if beyond else _range(start, len(body)))
        handler.send_header("Content-Length", str(max(0, len(body) - start)))
        handler.end_headers()
        end = start + self.cut.pop(0) if self.cut else len(body)
        handler.wfile.write(body[start:end])


def _range(start: int, length: int) -> str:
    return f"bytes {start}-{length - 1}/{length}"


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "PAUSE", 0.0)
    monkeypatch.setattr(fetch, "CHUNK", 64)
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        running.shutdown()


BODY = bytes(range(256)) * 4


def offer(server: Server, files: dict[str, bytes], article: int = 7387130, **changes: object) -> None:
    """List files as figshare's API does, and serve them."""
    listed = []
    for number, (name, body) in enumerate(files.items()):
        md5 = hashlib.md5(body).hexdigest()
        listed.append({"id": number, "name": name, "size": len(body), "computed_md5": md5, **changes})
        server.files[f"/file/download/{number}"] = body
    server.files[f"/articles/{article}/files?page_size=1000"] = json.dumps(listed).encode()


def run(server: Server, *words: object) -> int:
    return main(["fetch", *map(str, words), "--figshare-api", server.url])


def test_fetch_god(server, tmp_path, capsys):
    offer(server, {f"Subject{k}.h5": BODY + bytes([k]) for k in range(1, 6)} | {"ImageFeatures.h5": b"large"})
    assert run(server, "god", "--output", tmp_path) == 0
    out = capsys.readouterr()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"Subject{k}.h5" for k in range(1, 6)]
    assert (tmp_path / "Subject3.h5").read_bytes() == BODY + b"\x03"
    assert out.out.count("MD5") == 5 and "forms.gle" in out.err  # the images are by request
    server.asked.clear()
    assert run(server, "god", "--output", tmp_path, "--only", "Subject2*") == 0
    assert len(server.asked) == 1  # the list; the file is there already


def test_an_interrupted_download_resumes(server, tmp_path):
    offer(server, {"Subject1.h5": BODY})
    server.cut = [10**6, 100, 300]  # the list comes whole, the file in three parts
    assert run(server, "god", "--output", tmp_path, "--only", "Subject1.h5") == 0
    assert [asked for path, asked in server.asked if "download" in path] == [None, "bytes=100-", "bytes=400-"]
    assert (tmp_path / "Subject1.h5").read_bytes() == BODY
    assert not (tmp_path / "Subject1.h5.part").exists()


def test_a_killed_download_resumes(server, tmp_path):
    offer(server, {"Subject1.h5": BODY})
    (tmp_path / "Subject1.h5.part").write_bytes(BODY[:500])
    assert run(server, "god", "--output", tmp_path, "--only", "Subject1.h5") == 0
    assert server.asked[-1][1] == "bytes=500-"
    assert (tmp_path / "Subject1.h5").read_bytes() == BODY


def remote(server: Server, **known: object) -> fetch.Remote:
    server.files["/plain"] = BODY
    return fetch.Remote("plain.bin", f"{server.url}/plain", **known)  # type: ignore[arg-type]


def ignore(remote: fetch.Remote, have: int, total: int | None) -> None:
    pass


def test_a_complete_part_of_unknown_size_is_taken(server, tmp_path):
    (tmp_path / "plain.bin.part").write_bytes(BODY)
    assert fetch.download(remote(server), tmp_path, ignore).read_bytes() == BODY
    assert server.asked == [("/plain", f"bytes={len(BODY)}-")]


def test_a_part_that_is_too_long_is_begun_anew(server, tmp_path):
    (tmp_path / "plain.bin.part").write_bytes(BODY + b"more")
    assert fetch.download(remote(server), tmp_path, ignore).read_bytes() == BODY


def test_a_server_without_ranges_sends_all_of_it(server, tmp_path):
    server.ranges = False
    server.cut = [200]
    seen: list[tuple[int, int | None]] = []
    fetch.download(remote(server), tmp_path, lambda r, have, total: seen.append((have, total)))
    assert (tmp_path / "plain.bin").read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_server_that_always_breaks_off_is_given_up(server, tmp_path):
    server.cut = [0] * 50
    with pytest.raises(fetch.UserError, match=r"plain\.bin stopped .* the same command goes on where it stopped"):
        fetch.download(remote(server), tmp_path, ignore)
    assert len(server.asked) == fetch.ATTEMPTS


def test_a_wrong_checksum_is_told_and_the_file_kept_aside(server, tmp_path, capsys):
    offer(server, {"Subject1.h5": BODY}, computed_md5="0" * 32)
    assert run(server, "god", "--output", tmp_path, "--only", "Subject1.h5") == 2
    error = capsys.readouterr().err
    assert hashlib.md5(BODY).hexdigest() in error and "expected " + "0" * 32 in error and "Subject1.h5.wrong" in error
    assert [p.name for p in tmp_path.iterdir()] == ["Subject1.h5.wrong"]


def test_a_damaged_file_that_is_there_is_fetched_again(server, tmp_path):
    (tmp_path / "plain.bin").write_bytes(BODY[:-1])
    fetch.download(remote(server, size=len(BODY)), tmp_path, ignore)
    assert (tmp_path / "plain.bin").read_bytes() == BODY


@pytest.mark.parametrize(("status", "expected"), [(404, "refused (404"), (202, "answered 202"), (503, "stopped")])
def test_refusals_are_explained(server, tmp_path, status, expected):
    wanted = remote(server)
    if status == 404:
        server.files.clear()
    server.status = status
    with pytest.raises(fetch.UserError) as caught:
        fetch.download(wanted, tmp_path, ignore)
    assert expected in str(caught.value) and wanted.url in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_left_the_article_are_asked_for_by_number(server, tmp_path, capsys):
    offer(server, {"Subject1_ImageNetTest.h5": b"other"})
    server.files["/file/download/24080126"] = BODY
    assert run(server, "god", "--output", tmp_path, "--only", "Subject3.h5") == 0
    assert hashlib.sha256(BODY).hexdigest() in capsys.readouterr().out  # no checksum was published


def test_fetch_god_takes_what_the_article_lists_now(server, tmp_path, capsys):
    tasks = [f"Subject{k}_ImageNet{task}.h5" for k in range(1, 6) for task in ("Test", "Training")]
    offer(server, {name: BODY for name in [*tasks, "Subject1_Imagery.h5", "ImageFeatures.h5"]})
    assert run(server, "god", "--output", tmp_path) == 0  # asking for the earlier files would be answered 404
    assert sorted(p.name for p in tmp_path.iterdir()) == tasks


def test_fetch_bold5000_unpacks(server, tmp_path, monkeypatch):
    def archive(name: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr(name, "content")
            file.writestr("../outside.txt", "no")
        return buffer.getvalue()

    offer(server, {"BOLD5000_GLMsingle_ROI_betas.zip": archive("betas/CSI1.npy")}, article=14456124)
    server.files["/stimuli"] = archive("BOLD5000_Stimuli/a.txt")
    stimuli = fetch.Remote("BOLD5000_Stimuli.zip", f"{server.url}/stimuli")
    here = replace(fetch.ADDRESSES["bold5000"], direct=(stimuli,))
    monkeypatch.setitem(fetch.ADDRESSES, "bold5000", here)
    target = tmp_path / "data"
    assert run(server, "bold5000", "--output", target) == 0
    assert (
        (target / "betas" / "CSI1.npy").read_text() == (target / "BOLD5000_Stimuli" / "a.txt").read_text() == "content"
    )
    assert not (tmp_path / "outside.txt").exists()


def test_what_has_no_public_address_tells_the_steps(capsys):
    told = {"hcp": "balsa.wustl.edu", "digits69": "digit69_28x28.mat", "god": "forms.gle", "folder": "train.npz"}
    for name, expected in told.items():
        assert main(["fetch", name]) == 0  # god has an address, and no --output asks for it
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["god", "--output", "OUT", "--only", "Sub9*"], "--only 'Sub9*': matches no file; there are Subject1.h5"),
        (["bold5000", "--output", "OUT"], "/articles/14456124/files?page_size=1000: no list of files"),
    ],
)
def test_fetch_errors(server, tmp_path, capsys, words, expected):
    offer(server, {"Subject1.h5": BODY})
    assert run(server, *[tmp_path if word == "OUT" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_every_public_address_is_complete():
    for kind, address in fetch.ADDRESSES.items():
        assert kinds()[kind].setup
        assert all(re.fullmatch(address.wanted, known) for known in address.known)
        assert all(r.url.startswith("https://") for r in address.direct)


# ---------------------------------------------------------------- check


def check(tmp_path: Path, path: Path, *words: str) -> int:
    return main(["check", str(path), "--output", str(tmp_path / "page"), *words])


def test_check_folder(tmp_path, capsys):
    train, test = content(), content(N_TEST, 1)
    train["labels"][0] = "<b>lion</b>"
    train["fmri"][:, 3] = 7
    test["images"][2] = train["images"][5]
    test["fmri"] *= 30
    write_both(tmp_path / "mine", train, test)
    assert check(tmp_path, tmp_path / "mine", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["kind"] == "folder" and summary["voxels"] == 10 and summary["items"] == {"train": 24, "test": 6}
    assert summary["classes"] == {"named": 4, "train": 4, "test": 3, "test_not_in_train": 0}
    assert summary["roi"] == {"L_V1": 5, "R_V1": 5} and summary["images"] == [3, 256, 256]
    warned = " | ".join(summary["warnings"])
    assert "1 of 10 voxels are constant" in warned and "times the spread of training" in warned
    assert (
        "1 of 6 test items show a stimulus of the training set (1 pixel by pixel; 'test item 2' is 'train item 5')"
        in warned
    )
    assert all(Path(path).stat().st_size > 100 for path in summary["written"])
    page = (tmp_path / "page" / "index.html").read_text()
    assert 'src="stimuli.png"' in page and "<b>" not in page.replace("<body", "")


def test_check_in_words(tmp_path, capsys):
    train, test = content(), content(N_TEST, 1)
    del train["images"], test["images"]
    train["subject"], test["subject"] = np.array(["S1", "S2"] * 12), np.array(["S1", "S2"] * 3)
    write_both(tmp_path / "mine", train, test)
    assert check(tmp_path, tmp_path / "mine", "--subject", "S2") == 0
    out = capsys.readouterr().out
    assert re.search(r"^items +train 12, test 3$", out, re.M) and re.search(r"^subjects +S1; S2$", out, re.M)
    assert not (tmp_path / "page" / "stimuli.png").exists() and (tmp_path / "page" / "voxels.png").exists()
    assert check(tmp_path, tmp_path / "mine") == 0
    assert "several subjects (S1, S2); this is S1" in capsys.readouterr().err


def test_check_a_pool(tmp_path, capsys):
    np.savez(tmp_path / "rest.npz", bold=np.random.default_rng(0).standard_normal((40, 6)))
    assert check(tmp_path, tmp_path / "rest.npz", "--window", "4", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["kind"] == "hcp" and summary["patterns"] == 10 and summary["voxels"] == 6


def test_check_god(tmp_path, capsys):
    np.savez(tmp_path / "sbj_1.npz", **packed_god())
    assert guess_kind(tmp_path) == "god"
    assert check(tmp_path, tmp_path) == 2  # the images are missing
    assert "images_256.npz" in capsys.readouterr().err


def test_check_bold5000(tmp_path, capsys):
    write_bold5000(tmp_path, subject=4)
    write_bold_images(tmp_path)
    assert check(tmp_path, tmp_path, "--subject", "4", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["kind"] == "bold5000" and summary["items"]["test"] == 5 and "L_LOC" in summary["roi"]
    assert (tmp_path / "page" / "stimuli.png").exists()


def test_check_errors(tmp_path, capsys):
    write_both(tmp_path / "mine")
    write(tmp_path / "mine" / "test.npz", content(N_TEST, 1) | {"fmri": np.full((N_TEST, 10), np.nan)})
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.txt").write_text("")
    for path, expected in (
        (tmp_path / "mine", "NaN"),
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path / "empty", "no data of a known kind; found []; say which with --kind"),
        (tmp_path / "other.txt", "no data of a known kind; found ['other.txt']"),
    ):
        assert check(tmp_path, path) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1 and str(path) in error
    assert check(tmp_path, tmp_path / "mine", "--kind", "god", "--subject", "9") == 2
    assert "data.subject = 9: must be less than or equal to 5" in capsys.readouterr().err
    assert check(tmp_path, tmp_path / "mine", "--window", "3") == 2
    assert "--window of --kind folder: unknown key 'window'" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told(tmp_path, capsys):
    write_both(tmp_path / "mine")
    (tmp_path / "taken").write_text("")
    assert main(["check", str(tmp_path / "mine"), "--output", str(tmp_path / "taken")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'taken'}: File exists" in error and error.count("\n") == 1


def test_snr_of_known_signal():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(200), 5)
    strength = np.array([0.0, 0.5, 2.0])
    fmri = rng.standard_normal((200, 3))[group] * np.sqrt(strength) + rng.standard_normal((1000, 3))
    found = inspection.voxel_snr(fmri, group)
    np.testing.assert_allclose(found, strength, atol=0.35)
    assert inspection.voxel_snr(fmri, np.arange(1000)) is None  # nothing repeats


def test_clean_data_have_no_warnings(tmp_path):
    dataset = write_both(tmp_path).load(0)
    assert inspection.warn(dataset) == []
    assert inspection.summarise(dataset)["snr_of"] == "training classes"


class OwnData(DataSource):
    """A source of the user's own package."""

    signs: ClassVar[tuple[str, ...]] = ("*.mine",)
    kind: Literal["own"] = "own"
    path: Path

    def load(self, fold: int, images: Path | None = None) -> FmriDataset:
        return FolderData(path=self.path).load(fold)


def test_check_a_source_of_the_user(tmp_path, capsys, monkeypatch):
    write_both(tmp_path / "data")
    assert guess_kind(tmp_path / "data") == "folder"
    monkeypatch.setattr(registry, "classes", lambda group: {"own": OwnData} if group == "cnd.data" else {})
    (tmp_path / "data" / "x.mine").touch()
    assert check(tmp_path, tmp_path / "data", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "own"


def test_guessed_kinds(tmp_path):
    write_both(tmp_path / "a" / "S1")
    assert guess_kind(tmp_path / "a") == "folder"
    (tmp_path / "b" / "py").mkdir(parents=True)
    (tmp_path / "b" / "py" / "CSI1_x.npy").touch()
    assert guess_kind(tmp_path / "b") == "bold5000"
    (tmp_path / "c" / "100206").mkdir(parents=True)
    (tmp_path / "c" / "100206" / hcp.PACKED).touch()
    assert guess_kind(tmp_path / "c") == "hcp"
    (tmp_path / "digit69_28x28.mat").touch()
    assert guess_kind(tmp_path / "digit69_28x28.mat") == guess_kind(tmp_path) == "digits69"


# ---------------------------------------------------------------- prepare, and the command itself


def test_prepare(tmp_path, capsys):
    data = np.random.default_rng(0).standard_normal((3, hcp.N_GRAYORDINATES))
    write_cifti(tmp_path / "raw" / "100206_rfMRI_REST1_LR_Atlas_MSMAll.dtseries.nii", data)
    words = ["prepare", "hcp", str(tmp_path / "raw"), "--output", str(tmp_path / "packed")]
    assert main(words) == 0
    out = capsys.readouterr()
    assert "1 subjects packed now, 0 before" in out.out and "packing" in out.err
    assert main(words) == 0
    assert "0 subjects packed now, 1 before" in capsys.readouterr().out
    assert main(["prepare", "hcp", str(tmp_path / "none"), "--output", "x"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_usage_errors_exit_with_2(capsys):
    for words in ([], ["fetch", "nsd"], ["check"], ["check", "x", "--window", "0"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    capsys.readouterr()


def test_help_is_light():
    code = (
        "import sys, cnd.data.tools.command as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: print({'torch', 'pandas', 'nibabel', 'matplotlib', 'rich'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("set()") and "prepare" in out
