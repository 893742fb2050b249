"""Data from the command line: check what you have, pack HCP, download what has a public address.

python -m cnd.data check PATH            what a folder or file holds, and what is wrong with it
python -m cnd.data prepare hcp FOLDER --output FOLDER
python -m cnd.data fetch god|bold5000|hcp|digits69 --output FOLDER

Data goes to stdout, progress to stderr. Exit code 0: fine; 2: the input is at fault, told in one line; 130:
interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.data.bold5000 import Bold5000Data
from cnd.data.digits69 import Digits69Data
from cnd.data.files import FileData
from cnd.data.folder import FolderData
from cnd.data.god import GodData
from cnd.data.hcp import HcpPool
from cnd.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

KINDS = ("folder", "god", "bold5000", "digits69", "hcp")

# ---------------------------------------------------------------- check


def guess_kind(path: Path) -> str:
    """The kind of data that lies at a path, by the names of its files.

    Raises:
        UserError: nothing is there, or nothing known.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    if path.is_file():
        return "digits69" if path.suffix == ".mat" else "hcp"
    signs = {
        "folder": ["train.*", "*/train.*"],
        "god": ["Subject[1-5].h5", "Subject[1-5]_ImageNet*.h5", "sbj_[1-5].npz"],
        "bold5000": ["CSI*_GLMbetas*.npy", "py/CSI*.npy", "BOLD5000_*/"],
        "digits69": ["digit69*.mat"],
        "hcp": ["**/HCP_visual_voxel.npz", "**/*_Atlas_MSMAll*.dtseries.nii", "*.npz", "*.npy"],
    }
    for kind, patterns in signs.items():
        if any(next(path.glob(pattern), None) for pattern in patterns):
            return kind
    listed = sorted(p.name for p in path.iterdir())[:6]
    raise UserError(f"{path}: no data of a known kind; found {listed}; say which with --kind {'|'.join(KINDS)}")


def data_config(kind: str, path: Path, subject: str | None) -> FileData:
    """Config of a data set at a path.

    Raises:
        UserError: the kind has no such subject.
    """
    if kind == "folder":
        return FolderData(path=path, subject=subject)
    if kind == "digits69":
        return Digits69Data(path=path if path.is_file() else next(path.glob("digit69*.mat"), path))
    last = 5 if kind == "god" else 4
    if subject is not None and subject not in map(str, range(1, last + 1)):
        raise UserError(f"--subject {subject}: {kind} has subjects 1 to {last}; choose one of them")
    number = int(subject or 1)
    return GodData(path=path, subject=number) if kind == "god" else Bold5000Data(path=path, subject=number)


def check(options: argparse.Namespace) -> None:
    """Read everything, print a summary, and write pictures.

    Raises:
        UserError: the data are malformed.
    """
    from cnd.data import inspection

    kind = options.kind or guess_kind(options.path)
    summary: dict[str, Any] = {"kind": kind, "path": str(options.path)}
    if kind == "hcp":
        from cnd.data.hcp import describe_pool, load_pool

        pool_config = HcpPool(path=options.path, window=options.window)
        pool = load_pool(pool_config)
        summary |= inspection.summarise_pool(pool, describe_pool(pool_config))
        options.output.mkdir(parents=True, exist_ok=True)
        pictures = inspection.draw_pool(pool, options.output)
    else:
        dataset, subjects = _load(kind, options)
        summary |= {"subjects": subjects} | inspection.summarise(dataset)
        options.output.mkdir(parents=True, exist_ok=True)
        pictures = inspection.draw(dataset, options.output)
    page = inspection.write_page(summary, pictures, options.output)
    summary["written"] = [str(page), *map(str, pictures)]
    print(json.dumps(summary, indent=1) if options.json else inspection.text(summary))


def _load(kind: str, options: argparse.Namespace) -> tuple[Any, list[str]]:
    """The data set, and the subjects that are there."""
    from cnd import data
    from cnd.workflow.cache import StageCache

    subjects: list[str] = []
    subject = options.subject
    if kind == "folder" and options.path.is_dir():
        from cnd.data.folder_layout import subjects as find_subjects

        subjects = find_subjects(options.path)
        if len(subjects) > 1 and subject is None:
            subject = subjects[0]
            print(f"several subjects ({', '.join(subjects)}); this is {subject}, --subject chooses", file=sys.stderr)
    config = data_config(kind, options.path, subject)
    data.check(config)
    return data.load(config, data.folds(config)[0], StageCache(options.cache)), subjects


# ---------------------------------------------------------------- prepare


def prepare(options: argparse.Namespace) -> None:
    """Pack raw HCP.

    Raises:
        UserError: there is no raw file, or some could not be read.
    """
    from cnd.data.tools.hcp_pack import prepare as pack

    with _progress("packing") as bar:

        def watched(subjects: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
            waiting = list(subjects)
            yield from bar.track(waiting, description=f"packing {len(waiting)} subjects")

        made, before = pack(options.folder, options.output, options.pattern, watched)
    print(f"{options.output}: {made} subjects packed now, {before} before")


# ---------------------------------------------------------------- fetch


def fetch(options: argparse.Namespace) -> None:
    """Download what has a public address; tell the steps to get the rest.

    Raises:
        UserError: a server refuses, or sends something else than was published.
    """
    from cnd.data import fetch as fetching

    source = fetching.source(options.name)
    has_address = source.article is not None or source.direct
    if not has_address or options.output is None:
        print(source.steps)
        if has_address:
            print(f"\n--output FOLDER downloads what of {options.name} has a public address", file=sys.stderr)
        return
    remotes = fetching.remotes(source, options.only, options.figshare_api)
    with _progress("download") as bar:
        tasks = {remote: bar.add_task(remote.name, total=remote.size) for remote in remotes}
        for remote in remotes:
            path = fetching.download(
                remote, options.output, lambda r, have, total: bar.update(tasks[r], completed=have, total=total)
            )
            if path.suffix == ".zip":
                fetching.unpack(path)
            known = f"MD5 {remote.md5}" if remote.md5 else f"SHA-256 {fetching.digest(path)}, none was published"
            print(f"{path}\t{known}")
    print(f"\nThe rest, and where everything goes:\n{source.steps}", file=sys.stderr)


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """A progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count = DownloadColumn() if what == "download" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield bar


# ---------------------------------------------------------------- command line


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 on")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnd.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check", help="validate data, print a summary, write pictures")
    one.add_argument("path", type=Path)
    one.add_argument("--kind", choices=KINDS, help="by default told from the names of the files")
    one.add_argument("--subject", help="where there are several")
    one.add_argument("--window", type=_positive, default=1, help="hcp: volumes averaged into one pattern")
    one.add_argument("--output", type=Path, default=Path("cnd_data_check"), help="folder of the page with pictures")
    one.add_argument(
        "--cache", type=Path, default=Path("runs/cache"), help="where images are kept for runs (god, bold5000)"
    )
    one.add_argument("--json", action="store_true")
    one.set_defaults(run=check)
    two = commands.add_parser("prepare", help="pack raw HCP")
    two.add_argument("name", choices=["hcp"])
    two.add_argument("folder", type=Path, help="holds *_REST1_LR_Atlas_MSMAll*.dtseries.nii, in it or below")
    two.add_argument("--output", type=Path, required=True, help="folder of the packed subjects")
    two.add_argument("--pattern", default="*_REST1_LR_Atlas_MSMAll*.dtseries.nii", help="names of the raw files")
    two.set_defaults(run=prepare)
    three = commands.add_parser("fetch", help="download, or tell the steps")
    three.add_argument("name", choices=["god", "bold5000", "hcp", "digits69"])
    three.add_argument("--output", type=Path, help="folder to download to")
    three.add_argument("--only", default="*", help="pattern of file names, e.g. 'Subject3*'")
    three.add_argument("--figshare-api", default="https://api.figshare.com/v2", help="another server with its answers")
    three.set_defaults(run=fetch)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, 2 where the input is at fault, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, no permission, a file in the place of a folder
        place = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"{place}; free the place or choose another one", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
