"""The report's section on the decoding analysis."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from analysis_folder import cortex_table, write_analysis
from report_records import ROWS, finished_sweep, write_trial
from test_reports import Page

from reports.build import build_report

EVIL = "<script>alert('x')</script>"
FEW = {"n_voxels": 300, "layers": (4,), "steps": (0.0,), "n_categories": 40}


def analysed(output: Path, rows: dict[str, float], **more: object) -> Path:
    """A finished sweep of rows 10, 11 and 12; ``rows`` maps those that were analysed to their gain in V1."""
    sweep_dir = finished_sweep(output, ROWS[1:])
    for seed, (row, gain) in enumerate(rows.items()):
        write_analysis(output / "cache" / "analysis" / row, seed=seed, gain=gain, **(FEW | more))  # type: ignore[arg-type]
        write_trial(sweep_dir, row, 0, analysis=f"cache/analysis/{row}")
    return sweep_dir


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    output = tmp_path_factory.mktemp("analysed")
    sweep_dir = analysed(output, {"10": 0.0, "11": 0.08}, notes=["Made for a test.", EVIL])
    definition = json.loads((sweep_dir / "sweep.json").read_text())
    (sweep_dir / "sweep.json").write_text(json.dumps(definition | {"title": EVIL}))
    return output, build_report(output, sweep_dir)


def test_section_holds_what_a_reader_needs(built: tuple[Path, Path]) -> None:
    page = Page(built[1])
    for words in [
        "Which voxels tell what the diffusion model represents",
        "They test the analysis",
        "Reconstruction-driven (the paper's way: circular)",
        "Stimulus-driven (not circular)",
        "not evidence of what the brain represents",
        "Figure 5, reconstruction-driven: raw weight by layer",
        "Figure 6, stimulus-driven: encoding R² by denoising step",
        "199 permutations",
        "300 voxels, 1,200 training and 80 test items.",
        "Differences from Row 10",
        "Decoding from one area",
        "Figures 5 and 6 of the other analysed rows (1)",
        "Row 11: Figure 6, reconstruction-driven: raw weight by denoising step",
        "Tables by area: weights, patterns, encoding R² and share of significant voxels",
        "The sign of a component is a convention",
        "rank correlation with encoding R²",
        "Made for a test.",
    ]:
        assert words in page.text
    assert "analysis" in page.ids and "#analysis" in page.links


def test_interactive_page_lies_beside_the_report(built: tuple[Path, Path]) -> None:
    output, path = built
    assert sorted(p.name for p in (output / "reports").iterdir()) == [
        "table-fake-cortex.html",
        "table-fake-tables",
        "table-fake.html",
    ]
    outside = [
        link for link in Page(path).links if not link.startswith(("#", "data:image/png;base64,", "table-fake-tables/"))
    ]
    assert outside == ["table-fake-cortex.html"]
    assert "alert(&#39;x&#39;)&lt;/script&gt;: Row 10" in (output / "reports" / "table-fake-cortex.html").read_text()


def test_strings_are_escaped(built: tuple[Path, Path]) -> None:
    page = built[1].with_name("table-fake-cortex.html")
    assert [Page(path).tags.count("script") for path in (built[1], page)] == [1, 1]
    assert "<script>alert" not in built[1].read_text() + page.read_text()
    assert built[1].read_text().count("&lt;script&gt;") >= 3  # title, heading, note


def test_no_analysis_no_section(tmp_path: Path) -> None:
    page = Page(build_report(tmp_path, analysed(tmp_path, {})))
    assert "analysis" not in page.ids and "#analysis" not in page.links


def test_volume_of_another_row_is_shown_without_maps_and_differences(tmp_path: Path) -> None:
    cortex = cortex_table(100, np.random.default_rng(0)).assign(vertex=-1)
    volume = {"cortex": cortex, "simulated": False, "drives": ("stimulus",)}
    page = Page(build_report(tmp_path, analysed(tmp_path, {"11": 0.0, "12": 0.0}, **volume)))
    assert "Row 11: hidden states of the frozen UNet" in page.text
    assert "No map is drawn: no voxel has a cortical vertex" in page.text and "Figure 5 of the paper" in page.text
    for words in (
        "Differences from Row 10",
        "They test the analysis",
        "colour scale for all panels",
        "Reconstruction-driven",
    ):
        assert words not in page.text
    assert "table-fake-cortex.html" not in page.links


def test_differences_of_volumes_are_shown_by_area(tmp_path: Path) -> None:
    cortex = cortex_table(100, np.random.default_rng(0)).assign(vertex=-1)
    page = Page(build_report(tmp_path, analysed(tmp_path, {"10": 0.0, "11": 0.1}, cortex=cortex)))
    assert "Differences from Row 10" in page.text and "Means over an area" in page.text


def test_rows_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    page = Page(build_report(tmp_path, analysed(tmp_path, {"10": 0.0, "11": 0.0}, drives=("stimulus",))))
    assert "Row 11: a difference map needs drive 'reconstruction'" in page.text
    assert "Differences from Row 10" not in page.text


def test_broken_analysis_is_said_and_the_report_stands(tmp_path: Path) -> None:
    sweep_dir = analysed(tmp_path, {"10": 0.0})
    shutil.rmtree(tmp_path / "cache" / "analysis" / "10")
    page = Page(build_report(tmp_path, sweep_dir))
    assert "states.parquet: no such file" in page.text and "Provenance" in page.text
    assert not (tmp_path / "reports" / "table-fake-cortex.html").exists()


@pytest.mark.parametrize(
    ("kind", "why"),
    [("ss_ae", "it reconstructs without the diffusion model"), ("ridge_latents", "its condition alone does not give")],
)
def test_rows_without_a_condition_are_named_in_its_place(tmp_path: Path, kind: str, why: str) -> None:
    page = Page(build_report(tmp_path, finished_sweep(tmp_path, ROWS[2:], experiment={"decoder.kind": kind})))
    assert "analysis" in page.ids and f"Row 11: of the decoder {kind}, {why}" in page.text
