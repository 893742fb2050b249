"""Data from the command line: check what you have, prepare scans, pack HCP, download what has a public address.

python -m cnd.data check PATH            what a folder or file holds, and what is wrong with it
python -m cnd.data prepare hcp FOLDER --output FOLDER
python -m cnd.data prepare nifti RECIPE --output FOLDER     scans, events and a mask to a folder that CnD reads
python -m cnd.data fetch god|bold5000|... --output FOLDER

Data goes to stdout, progress to stderr. Exit code 0: fine; 2: the input is at fault, told in one line; 130:
interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cnd import registry
from cnd.data.images import STORE, write_store
from cnd.data.tools import fetch as fetching
from cnd.data.tools import inspection
from cnd.errors import UserError
from cnd.places import COMMAND
from cnd.protocols import DataSource, FmriDataset
from cnd.reading import explain
from cnd.terminal import any_encoding

if TYPE_CHECKING:
    from rich.progress import Progress

# ---------------------------------------------------------------- check

KNOWN = f"""Whether generator, judge and loss know these images is not told here, but by
  {COMMAND} ceilings --experiment EXPERIMENT --set data.path=..."""

LABELS_ONLY = """Labels without images need classes that the generator knows, by its names or by label_map=FILE
(python -m cnd.generators list); Phase 2 then learns from images that it draws of each class"""


def kinds() -> dict[str, Any]:
    """The data sources and pools that read a path, by kind; those of the user's own packages are among them."""
    every = registry.classes("cnd.data") | registry.classes("cnd.pools")
    return {kind: part for kind, part in every.items() if "path" in part.model_fields}


def guess_kind(path: Path) -> str:
    """The kind of data that lies at a path, by the names of its files.

    Raises:
        UserError: nothing is there, or nothing known.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    fits = path.match if path.is_file() else lambda sign: any(path.glob(sign))
    for kind, part in kinds().items():
        if any(map(fits, part.signs)):
            return kind
    listed = sorted(p.name for p in path.iterdir())[:6] if path.is_dir() else [path.name]
    raise UserError(f"{path}: no data of a known kind; found {listed}; say which with --kind {'|'.join(kinds())}")


def part_at(kind: str, path: Path, **settings: Any) -> Any:
    """The source or pool of a kind that reads a path.

    Args:
        settings: others of its settings; None where the default will do.

    Raises:
        UserError: it has no such settings.
    """
    part, given = kinds()[kind], {name: value for name, value in settings.items() if value is not None}
    try:
        return part.model_validate({"path": path, **given})
    except ValidationError as error:
        raise explain(error, part, lambda key: f"--{'.'.join(key)} of --kind {kind}") from error


def check(options: argparse.Namespace) -> None:
    """Read everything and print a summary; with ``--output`` write a page with pictures, too.

    Raises:
        UserError: the data are malformed.
    """
    kind = options.kind or guess_kind(options.path)
    part = part_at(kind, options.path, window=options.window)
    summary: dict[str, Any] = {"kind": kind, "path": str(options.path)}
    if kind in registry.classes("cnd.pools"):
        pool = part.patterns()
        summary |= inspection.summarise_pool(pool, part.describe() or kind)
        written = _page(options.output, summary, lambda folder: inspection.draw_pool(pool, folder))
    else:
        summary["subjects"] = part.subjects()
        with _loaded(_of_one_subject(part, summary["subjects"], options.subject)) as dataset:
            summary |= inspection.summarise(dataset)
            written = _page(options.output, summary, lambda folder: inspection.draw(dataset, folder))
    summary["written"] = written
    print(json.dumps(summary, indent=1) if options.json else inspection.text(summary))
    if not options.json and kind in registry.classes("cnd.data"):
        print(LABELS_ONLY if summary["images"] is None else KNOWN, file=sys.stderr)
    if not written:
        print("--output FOLDER writes a page with pictures of it, too", file=sys.stderr)


def _page(folder: Path | None, summary: dict[str, Any], draw: Callable[[Path], list[Path]]) -> list[str]:
    """Write the page and its pictures where a folder is given; names of the files."""
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw(folder)
    return [str(path) for path in (inspection.write_page(summary, pictures, folder), *pictures)]


def _of_one_subject(source: DataSource, there: list[str], wanted: str | None) -> DataSource:
    """The source of the subject that is wanted, or of the first of several."""
    if wanted is None and len(there) > 1:
        wanted = there[0]
        print(f"several subjects ({', '.join(there)}); this is {wanted}, --subject chooses", file=sys.stderr)
    return source if wanted is None else source.of_subject(wanted)


@contextmanager
def _loaded(source: DataSource) -> Iterator[FmriDataset]:
    """The first fold; its images lie in a temporary store."""
    source.check()
    with tempfile.TemporaryDirectory() as folder:
        store = None
        if (images := source.image_source()) is not None:
            write_store(images, store := Path(folder) / STORE)
        yield source.load(source.folds()[0], store)


# ---------------------------------------------------------------- prepare


def prepare(options: argparse.Namespace) -> None:
    """Pack raw HCP, or make items of scans and events.

    Raises:
        UserError: a file is missing or malformed.
    """
    {"hcp": prepare_hcp, "nifti": prepare_nifti}[options.name](options)


def prepare_nifti(options: argparse.Namespace) -> None:
    """Make items of scans and events; see :mod:`cnd.data.tools.nifti.recipe`.

    Raises:
        UserError: a bad recipe, or a file that is missing or malformed.
    """
    from cnd.data.tools.nifti import page
    from cnd.data.tools.nifti.prepare import prepare as make
    from cnd.data.tools.nifti.recipe import read_recipe

    recipe, folder = read_recipe(options.folder, options.set)
    with _progress("preparing") as bar:
        done = make(recipe, folder, options.output, lambda runs: bar.track(runs, description=f"{len(runs)} runs"))
    summary, written = page.write(recipe, done, options.folder.resolve(), options.output)
    print(inspection.text(summary))
    print(f"{options.output}: {done.made} runs prepared now, {done.before} before; {written}")


def prepare_hcp(options: argparse.Namespace) -> None:
    """Pack raw HCP.

    Raises:
        UserError: there is no raw file, or some could not be read.
    """
    if options.set:
        raise UserError(f"--set {options.set[0]}: prepare hcp has no recipe; leave it out")
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
    steps, address = kinds()[options.name].setup, fetching.ADDRESSES.get(options.name)
    if address is None or options.output is None:
        print(steps)
        if address is not None:
            print(f"\n--output FOLDER downloads what of {options.name} has a public address", file=sys.stderr)
        return
    remotes = fetching.remotes(address, options.only, options.figshare_api)
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
    print(f"\nThe rest, and where everything goes:\n{steps}", file=sys.stderr)


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
    one.add_argument("--kind", choices=list(kinds()), help="by default told from the names of the files")
    one.add_argument("--subject", help="where there are several")
    one.add_argument("--window", type=_positive, help="hcp: volumes averaged into one pattern")
    one.add_argument("--output", type=Path, help="folder of a page with pictures; without it none is written")
    one.add_argument("--json", action="store_true")
    one.set_defaults(run=check)
    two = commands.add_parser("prepare", help="pack raw HCP, or make items of scans and events")
    two.add_argument("name", choices=["hcp", "nifti"])
    two.add_argument(
        "folder",
        type=Path,
        help="hcp: holds *_REST1_LR_Atlas_MSMAll*.dtseries.nii, in it or below; nifti: recipe.yaml, or its folder",
    )
    two.add_argument("--output", type=Path, required=True, help="folder of what is made")
    two.add_argument("--pattern", default="*_REST1_LR_Atlas_MSMAll*.dtseries.nii", help="hcp: names of the raw files")
    two.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="nifti: a key of the recipe, e.g. estimate=lss"
    )
    two.set_defaults(run=prepare)
    three = commands.add_parser("fetch", help="download, or tell the steps")
    three.add_argument("name", choices=[kind for kind, part in kinds().items() if part.setup])
    three.add_argument("--output", type=Path, help="folder to download to")
    three.add_argument("--only", default="*", help="pattern of file names, e.g. 'Subject3*'")
    three.add_argument("--figshare-api", default=fetching.FIGSHARE, help="another server with its answers")
    three.set_defaults(run=fetch)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, 2 where the input is at fault, 130 when interrupted."""
    any_encoding()
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
