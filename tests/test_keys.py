"""What moves a step's key: the code that computes it and the steps it needs, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from cnd import keys, registry
from cnd.decoders.ridge import RidgeDecoder
from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override
from cnd.settings import Config, FileOf
from cnd.steps import Step, upstream
from cnd.workflow.plan import has_interventions, steps

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "cnd").rglob("*.py")
)

EXPERIMENTS = {
    "cnd": {},
    "test_best": {"phase2.checkpoint": "test_best"},
    "generated": {"phase2.target": "generated"},
    "ridge": {"decoder.kind": "ridge"},
    "oracle": {"decoder.kind": "oracle"},
}
CND = ("cnd", "test_best", "generated")
ALL = {"data"}  # everything follows from the data
SCORED = {"record", "interventions"}


def only(experiments: tuple[str, ...], moved: set[str], others: set[str] | None = None) -> dict[str, set[str]]:
    """Steps that move in some experiments, and those that move in the others."""
    return {name: moved if name in experiments else others or set() for name in EXPERIMENTS}


MOVES: dict[str, set[str] | dict[str, set[str]]] = {
    # what the parts are made of
    "cnd._compat": ALL,
    "cnd.keys": ALL,
    "cnd.networks": ALL,  # the simulated cortex has one
    "cnd.protocols": ALL,
    "cnd.settings": ALL,
    "cnd.steps": ALL,
    "cnd.checkpoint_files": {"pretrain", "phase1", "latents", "drawn"},
    "cnd.imagenet": {"latents", "drawn"},
    # data: those that were chosen
    "cnd.data.simulated": ALL,
    "cnd.data.simulation": ALL,
    "cnd.data.checks": ALL,
    "cnd.data.images": ALL,
    "cnd.data.storage": ALL,
    "cnd.data.findings": {"findings"},
    "cnd.data.splits": {"phase2", "sample"},  # Phase 1 learns without pairs
    # decoders
    "cnd.decoders.cnd.phase1": {"pretrain", "phase1"},
    "cnd.decoders.cnd.phase2": {"phase2"},
    "cnd.decoders.cnd.phase2.concepts": only(CND, {"interventions"}),
    "cnd.decoders.cnd.phase2.interventions": only(CND, {"interventions"}),
    "cnd.decoders.cnd.decoder": only(CND, {"sample"}),
    "cnd.decoders.conditioned": {"sample"},
    "cnd.decoders.oracle": only(("oracle",), {"sample"}),
    "cnd.decoders.ridge": only(("ridge",), {"sample"}),
    "cnd.decoders.training": {"pretrain", "phase1", "phase2"},
    "cnd.linear": only(("ridge",), {"sample"}, {"analysis"}),
    # generators
    "cnd.generators.embedded": {"latents", "drawn"},
    "cnd.generators.folders": {"latents", "drawn"},
    "cnd.generators.latent_diffusion": {"latents", "drawn"},
    "cnd.generators.sampling": {"phase2", "sample"},
    # scores; a judge also tells the class of a stimulus without a label that the generator knows
    "cnd.metrics": only(CND, {"phase2"}, SCORED),
    "cnd.metrics.__main__": set(),  # a command
    "cnd.metrics.features": set(),  # not chosen
    "cnd.metrics.pixels": set(),
    "cnd.metrics.published": set(),
    "cnd.metrics.resizing": set(),
    "cnd.metrics.judges": {
        "test_best": {"phase2"},
        "cnd": {"phase2"},
        "generated": {"drawn", "phase2"},
        "ridge": {"sample"},
        "oracle": {"sample"},
    },
    # the analysis
    "cnd.cortex": {"analysis"},
    "cnd.cortex.drawing": {"figures"},
    "cnd.cortex.drawing.differences": set(),  # of two runs, for a command
    "cnd.statistics": {"analysis"},
    "cnd.statistics.agreement": set(),  # for reports
    "cnd.statistics.effects": set(),
    # the steps themselves
    "cnd.workflow.inputs": ALL,
    "cnd.workflow.latents": {"latents"},
    "cnd.workflow.drawn": {"drawn"},
    "cnd.workflow.findings": {"findings"},
    "cnd.workflow.label_map": {"latents", "drawn"},
    "cnd.workflow.classes": {"latents", "drawn"},  # drawn by class where the data has no images
    "cnd.workflow.scoring": only(CND, {"phase2"}, SCORED),
    "cnd.workflow.interventions": {"interventions"},
    "cnd.workflow.lab": {"sample"},
    "cnd.workflow.samples": {"sample"},
    "cnd.workflow.record": {"record"},
    "cnd.workflow.origin": {"record"},
    "cnd.workflow.analysis": {"analysis"},
    "cnd.workflow.figures": {"figures"},
}
"""Steps that an edit of a room moves by itself; those that need them follow. What is in no room moves nothing."""


def experiment(name: str) -> Experiment:
    return override(load_experiment(ROOT / "experiments" / "smoke.yaml"), EXPERIMENTS[name], "test")


@pytest.fixture(autouse=True)
def fresh() -> None:
    forget()


def forget() -> None:
    """Let keys be worked out anew."""
    for function in (keys.code_hash, keys._imports, keys.source_file, keys.module_hash):
        function.cache_clear()


def keys_of(experiment: Experiment) -> dict[str, str]:
    keys.code_hash.cache_clear()
    return {step.name: step.key for step in all_steps(experiment)}


def all_steps(experiment: Experiment) -> list[Step]:
    return steps(experiment, analyse=True, intervene=has_interventions(experiment))


def expected(name: str, module: str) -> set[str]:
    """By the innermost room that a module is in."""
    rooms = [room for room in MOVES if f"{module}.".startswith(f"{room}.")]
    moved = MOVES[max(rooms, key=len)] if rooms else set()
    direct = moved[name] if isinstance(moved, dict) else moved
    return {step.name for step in all_steps(experiment(name)) if direct & {s.name for s in upstream(step)}}


def does_something(module: str) -> bool:
    """Not only a docstring."""
    file = keys.source_file(module)
    return file is not None and len(compile(file.read_bytes(), "", "exec", optimize=2).co_names) > 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_edit_moves_what_the_code_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every module in turn: its room says which steps must move, and no other may."""
    before, original = keys_of(experiment(name)), keys.module_hash
    wrong = {}
    for module in filter(does_something, MODULES):
        monkeypatch.setattr(keys, "module_hash", lambda m, edited=module: "edited" if m == edited else original(m))
        after = keys_of(experiment(name))
        moved = {step for step in before if before[step] != after[step]}
        if moved != expected(name, module):
            wrong[module] = (moved, "expected", expected(name, module))
    assert not wrong


@pytest.mark.parametrize(
    ("part", "imported"),
    [
        ("cnd.data.god", "cnd.data.god_layouts"),
        ("cnd.data.folder", "cnd.data.folder_layout"),
        ("cnd.generators.ldm", "cnd.generators.vq_diffusion"),
        ("cnd.generators.dit", "cnd.generators.diffusion_transformer"),
        ("cnd.metrics.judges.timm", "cnd.metrics.judges.networks"),
    ],
)
def test_parts_that_no_experiment_above_has_bring_their_files(part: str, imported: str) -> None:
    assert imported in keys.closure([part])


def test_a_new_decoder_moves_no_other_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = {name: keys_of(experiment(name)) for name in EXPERIMENTS}
    (tmp_path / "their_package.py").write_text(
        "from typing import Literal\nfrom cnd.protocols import Decoder\n"
        "class Mine(Decoder):\n    kind: Literal['mine'] = 'mine'\n"
        "class Taken(Decoder):\n    kind: Literal['ridge'] = 'ridge'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "BROKEN", {})
    targets = {"mine": "their_package:Mine", "taken": "their_package:Taken", "absent": "no_such_package:Mine"}
    points = EntryPoints(EntryPoint(name, target, "cnd.decoders") for name, target in targets.items())
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    registry.classes.cache_clear()
    try:
        assert registry.find("cnd.decoders", "mine").__name__ == "Mine"
        assert registry.find("cnd.decoders", "ridge") is RidgeDecoder
        assert set(registry.BROKEN) == {"cnd.decoders: taken", "cnd.decoders: absent"}
        forget()
        assert {name: keys_of(experiment(name)) for name in EXPERIMENTS} == before
    finally:
        registry.classes.cache_clear()


def test_a_part_that_cannot_be_used_is_told_where_its_kind_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BROKEN, "cnd.decoders: mine", "my_package:Mine: ImportError: no sklearn")
    with pytest.raises(UserError, match=r"cnd\.decoders: mine cannot be used: my_package:Mine: ImportError"):
        override(experiment("cnd"), {"decoder.kind": "mine"}, "test")


class WithFiles(Config):
    first: FileOf
    others: tuple[FileOf, ...] = ()
    places: tuple[Path, ...] = (Path("a"),)


def test_of_a_file_its_content_counts_and_not_its_place(tmp_path: Path) -> None:
    for name, content in {"one": "x", "two": "x", "three": "y"}.items():
        (tmp_path / name).write_text(content)
    one, two, three = (FileOf(path=tmp_path / name) for name in ("one", "two", "three"))
    first = WithFiles(first=one, others=(one, three)).identity()
    assert first == WithFiles(first=two, others=(two, three)).identity()
    assert first != WithFiles(first=one, others=(one, two)).identity()
    assert json.loads(json.dumps(first)) == first


# ---------------------------------------------------------------- the hash of code

SOURCE = '''"""Doc."""
KINDS = {"a", "b", "c"}
def f(x):
    """Doc of f."""
    return x in {"one", "two", "three"}  # why
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# why", "# another reason", True),
        ('"""Doc of f."""', '"""Better words."""', True),
        ("\ndef f", "\n\n\ndef f", True),
        ('"three"}', '"four"}', False),
        ("x in", "x not in", False),
        ("def f(x)", "def f(x=1)", False),
        ('"c"}', '"d"}', False),
    ],
)
def test_only_what_runs_counts(package: Path, old: str, new: str, same: bool) -> None:
    before = write(package, a=SOURCE)
    assert SOURCE.replace(old, new) != SOURCE
    assert (write(package, a=SOURCE.replace(old, new)) == before) is same


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package of a user's, which can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    for folder in ("mine", "mine/inner"):
        (tmp_path / folder / "__init__.py").touch()
    return tmp_path / "mine"


def write(package: Path, **modules: str) -> str:
    """The hash of module ``a`` with what it imports."""
    for name, text in modules.items():
        (package / f"{name}.py").write_text(textwrap.dedent(text))
    forget()
    return keys.code_hash("mine.a")


@pytest.mark.parametrize(
    "text",
    [
        "import mine.b",
        "from mine import b",
        "from .b import x",
        "def f():\n    from mine.b import x",
        "class C:\n    def f(self):\n        try:\n            import mine.b\n        finally:\n            pass",
        "from mine import c",  # which imports b
        "if TYPE_CHECKING:\n    pass\nelse:\n    import mine.b",
    ],
)
def test_imports_count_wherever_they_stand(package: Path, text: str) -> None:
    before = write(package, a=text, b="x = 1", c="from mine.b import x")
    assert write(package, b="x = 2") != before


@pytest.mark.parametrize("text", ["if TYPE_CHECKING:\n    import mine.b", "import os.path", "'mine.b'"])
def test_what_is_not_imported_does_not(package: Path, text: str) -> None:
    before = write(package, a=text, b="x = 1")
    assert write(package, b="x = 2") == before


def test_packages_that_hold_a_module_count_and_relative_imports_climb(package: Path) -> None:
    before = write(package, **{"a": "from mine.inner import b", "inner/b": "from ..c import x", "c": "x = 1"})
    changed = write(package, c="x = 2")
    assert before != changed != write(package, **{"inner/__init__": "y = 1"})
    assert keys.closure(["mine.a"]) == {"mine", "mine.a", "mine.c", "mine.inner", "mine.inner.b"}


def test_modules_of_cnd_are_followed_from_a_users_package(package: Path) -> None:
    write(package, a="from cnd.decoders.conditioned import ByEmbedding")
    assert "cnd.generators.sampling" in keys.closure(["mine.a"])


def test_it_is_what_python_imports_and_the_same_in_every_process() -> None:
    """The import system is the independent answer; hashes of sets and strings differ from process to process."""
    names = ["cnd.decoders.ridge", "cnd.workflow.samples", "cnd.cortex.compute.analyse"]
    code = "import sys, json; from cnd import keys; [__import__(n) for n in sys.argv[1:]]; names = sys.argv[1:]\n"
    code += "print(json.dumps([sorted(sys.modules), [keys.code_hash(n) for n in names]]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *names], env=environment, capture_output=True, text=True, check=True
    )
    loaded, hashes = json.loads(done.stdout)
    ours = {name for name in loaded if name.partition(".")[0] == "cnd"} - {"cnd.keys", *keys.TELLS}
    assert ours <= keys.closure(names) and RidgeDecoder.__module__ in ours
    assert hashes == [keys.code_hash(name) for name in names]
