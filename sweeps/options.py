"""The command line of ``sweeps/run.py``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NoReturn

from cnd.errors import UserError, nearest
from cnd.places import COMMAND, EXPERIMENTS, SWEEPS, names_in
from sweeps.spec import SCORE

ANALYSES = ("reference", "all", "none")
COMMANDS = (
    "run", "plan", "status", "report", "verify", "doctor", "sync", "compare", "clean", "export-best", "new", "schema",
)  # fmt: skip
AUTO, FEWEST, MOST = "auto", 2, 5  # of --seeds: the word, with how many seeds it begins, and ends by default
OF_SCORE = ("stimuli", "reconstructions", "judge")
OF_SEARCH = ("trials", "hours", "storage")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            option = message.split()[2].partition("=")[0]
            message += nearest(option, [o for o in self._option_string_actions if o.startswith("--")])
        raise UserError(f"{message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    names = {"sweeps": names_in(SWEEPS), "experiments": names_in(EXPERIMENTS)}
    parser = _Parser(
        prog=COMMAND,
        usage="%(prog)s [plan|status|report|verify|doctor|sync|clean] SWEEP [options]\n"
        "       %(prog)s compare A B ... [options]\n"
        "       %(prog)s export-best SEARCH FILE [options]\n"
        "       %(prog)s new NAME | schema DIR\n"
        "       %(prog)s [...] score --stimuli DIR --reconstructions A=DIR_A B=DIR_B [options]",
        description="Run every trial of a sweep that is not done yet, in parallel, and report.",
        epilog="".join(f"{what}: {', '.join(found) or 'none'}\n" for what, found in names.items())
        + "\nscore   the images that other programs exported, side by side; no sweep file is needed\n"
        "\nplan    the trials, the stages they share and the expected time; runs nothing\n"
        "status  the state of every trial; --watch: again and again, until the sweep ends\n"
        "report  build the HTML report again\n"
        "verify  check the files of every result against the hashes written with them, and every number of the report\n"
        "        --repair moves damaged results aside; the sweep, run again, makes these anew\n"
        "doctor  whether trial files, results and MLflow say the same of every trial; --repair has them agree\n"
        "sync    write to MLflow what it lacks of the finished trials, as after a server was away\n"
        "compare sweeps side by side, also of other experiments and output folders: A and B are NAME-EXPERIMENT below\n"
        "        --output, the folder of a sweep, or either with :ROW; differences are from the first one's reference\n"
        "clean   list what the sweep alone uses, and delete it with --force\n"
        "export-best   write the best trial of a search as a base experiment\n"
        "new     write NAME.yaml, a commented sweep to begin with\n"
        "schema  write JSON schemas of sweeps, searches and experiments into DIR, for editors\n"
        "\nThe same command again goes on where it stopped. Exit code 0: complete, 1: some trials failed,\n"
        "2: wrong settings or usage, 130: interrupted, 143 or 129: ended by SIGTERM or SIGHUP.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("words", nargs="+", metavar="[COMMAND] SWEEP", help="name of a sweep, or path of its YAML file")
    add("--experiment", metavar="NAME|PATH", help="base experiment (default: simulated)")
    add("--rows", metavar="IDS", help="only these rows, e.g. 0,10; all controls come along unless one is named")
    add(
        "--seeds",
        type=_seeds,
        metavar="N|auto",
        help="how many training seeds (default: 1, or what the sweep says); auto: two, then more for undecided rows",
    )
    add("--max-seeds", type=int, metavar="N", help=f"--seeds {AUTO}: no row gets more than these (default: {MOST})")
    add("--subjects", metavar="LIST", help="subjects of the data source, e.g. 1,2,3; each row is run on each")
    add("--metrics", metavar="NAMES", help="further metrics as columns of the report's table, e.g. ssim,nway5_top1")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. data.path=FILE")
    add(
        "--margin",
        type=float,
        metavar="M",
        help="rows count as equivalent within M of the reference: points of an accuracy (default: 5), else in units "
        "of the score (default: 0.05)",
    )
    add("--until-converged", action="store_true", help="train each row on until its validation score is flat")
    add(
        "--analysis",
        choices=ANALYSES,
        default="reference",
        metavar="ROWS",
        help="rows whose linear decoding is analysed, first seed: reference (default), all or none",
    )
    add(
        "--interventions",
        choices=ANALYSES,
        default="reference",
        metavar="ROWS",
        help="rows of CnD that are also scored with their attention to concepts replaced or removed, without training: "
        "reference (default), all or none",
    )
    add("--stimuli", type=Path, metavar="DIR", help="score: folder of the stimuli, an image each")
    add("--reconstructions", nargs="+", metavar="NAME=DIR", help="score: of each program, a folder or an .npz file")
    add("--judge", metavar="NAME", help="score: ImageNet classifier of timm for n-way accuracy")
    add("--trials", type=int, metavar="N", help="search: how many trials in all (default: as its file says)")
    add("--hours", type=float, metavar="H", help="search: begin no trial after this time")
    add(
        "--storage",
        metavar="URL",
        help="search: database for Optuna, e.g. sqlite:////shared/searches.db (default: a file)",
    )
    add("--output", default="runs", metavar="DIR", help="everything goes here (default: runs/)")
    add("--cache", type=Path, metavar="DIR", help="where stage results are kept (default: OUTPUT/cache)")
    add("--max-concurrent", type=int, metavar="N", help="trials at once (default: one a CPU core, or as GPUs allow)")
    add("--gpus-per-trial", type=float, default=0.0, metavar="N", help="GPUs for a trial, e.g. 0.5 (default: 0)")
    add("--fuse", type=int, default=1, metavar="N", help="trials that share one frozen UNet in a process (default: 1)")
    add("--ray-address", metavar="ADDRESS", help="of a running Ray cluster that shares the file system")
    add("--tracking-uri", metavar="URI", help="MLflow store (default: SQLite below OUTPUT)")
    add("--retry-failed", action="store_true", help="also run trials again that failed with a loss that is not finite")
    add("--keep-going", action="store_true", help="go on although the first trials all failed in the same way")
    add("--repair", action="store_true", help="verify: move damaged results aside, to be made anew; doctor: mend")
    add("--watch", action="store_true", help="status: show it again and again until the sweep ends")
    add("--force", action="store_true", help="clean: really delete")
    add("--json", action="store_true", help="print JSON")
    return parser


def _output(given: str) -> Path:
    """Raises:
    UserError: not a folder, or one that MLflow's URL of its database could not name.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", given):
        raise UserError(f"--output {given}: must be a folder; URLs are not supported (mount it, or copy results there)")
    try:
        path = Path(given).expanduser().absolute()
    except RuntimeError as error:  # ~somebody
        raise UserError(f"--output {given}: {error}") from error
    if bad := [c for c in str(path) if c in "?%" or not c.isprintable()]:
        raise UserError(
            f"--output {path}: {bad[0]!r} cannot stand in it, because a URL names MLflow's database; choose another"
        )
    return path


def _seeds(given: str) -> int | str:
    try:
        return given if given == AUTO else int(given)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{given}' is neither a number nor '{AUTO}'") from None


def _check_seeds(options: argparse.Namespace) -> None:
    """Raises:
    UserError: too few seeds, or a limit of seeds where none is asked for.
    """
    if options.seeds == AUTO:
        options.max_seeds = MOST if options.max_seeds is None else options.max_seeds
        if options.max_seeds < FEWEST:
            raise UserError(f"--max-seeds {options.max_seeds}: must be at least {FEWEST}")
    elif options.max_seeds is not None:
        raise UserError(f"--max-seeds {options.max_seeds}: belongs to --seeds {AUTO}; leave it out (see --help)")
    elif options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: must be at least 1")


def _of_the_sweep(options: argparse.Namespace) -> None:
    """Raises:
    UserError: options of another sweep than the one named.
    """
    scores = options.sweep == SCORE
    foreign = ("experiment", "subjects") if scores else OF_SCORE
    given = [name for name in foreign if getattr(options, name) is not None]
    if given:
        where = f"belongs to other sweeps than {SCORE}" if scores else f"belongs to the sweep {SCORE}"
        raise UserError(f"--{given[0]}: {where}; leave it out (see --help)")
    options.experiment = options.experiment or "simulated"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with ``command``, ``sweep``, ``rows`` (list or None) and absolute folders.

    Raises:
        UserError: wrong usage.
    """
    options = _parser().parse_intermixed_args(argv)
    command, *rest = options.words if options.words[0] in COMMANDS else ["run", *options.words]
    options.file = Path(rest.pop()).expanduser().absolute() if command == "export-best" and len(rest) == 2 else None
    if command == "export-best" and options.file is None:
        raise UserError("export-best: name a search and the file to write, e.g. export-best search best.yaml")
    if command == "compare":
        if len(rest) < 2:
            raise UserError(
                "compare: expected two sweeps or more, NAME-EXPERIMENT, a sweep's folder or either with :ROW"
            )
        options.sweeps, rest = rest, [""]
    if command in ("new", "schema") and len(rest) != 1:
        raise UserError(f"{command}: expected {'a name' if command == 'new' else 'a folder'} (see --help)")
    if len(rest) != 1:
        found = f"found {' '.join(rest)}" if rest else "none is given"
        hint = nearest(rest[0], COMMANDS) if len(rest) > 1 else f"; sweeps: {', '.join(names_in(SWEEPS))}"
        raise UserError(f"expected one sweep, {found}{hint} (see --help)")
    options.command, options.sweep = command, rest[0]
    if options.watch and command != "status":
        raise UserError(f"--watch: belongs to status, e.g. status {rest[0]} --watch; leave it out")
    _of_the_sweep(options)
    _check_seeds(options)
    least_of = (("max_concurrent", 1), ("fuse", 1), ("gpus_per_trial", 0), ("trials", 1), ("hours", 0))
    for name, least in least_of:
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    if options.gpus_per_trial > 1 and options.gpus_per_trial % 1:
        raise UserError(f"--gpus-per-trial {options.gpus_per_trial:g}: above one, Ray gives whole GPUs only")
    if options.margin is not None and not 0 < options.margin < float("inf"):
        raise UserError(f"--margin {options.margin:g}: must be positive, e.g. 5 for five points")
    if options.rows is not None:
        options.rows = [row.strip() for row in options.rows.split(",") if row.strip()]
        if not options.rows:
            raise UserError("--rows: name at least one row, e.g. --rows 0,10")
    options.subjects = [] if options.subjects is None else [s.strip() for s in options.subjects.split(",") if s.strip()]
    if len(set(options.subjects)) < len(options.subjects):
        raise UserError(f"--subjects {','.join(options.subjects)}: name each subject once")
    if options.metrics is not None:
        options.metrics = [name.strip() for name in options.metrics.split(",") if name.strip()]
    if bad := [s for s in options.subjects if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", s)]:
        raise UserError(f"--subjects: '{bad[0]}' is no name of a subject: letters, digits, '.', '_' and '-'")
    options.output = _output(options.output)
    options.cache = options.cache or options.output / "cache"
    return options
