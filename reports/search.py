"""The page of a search."""
from pathlib import Path
def build_search_report(output: Path, folder: Path) -> Path:
    return output
