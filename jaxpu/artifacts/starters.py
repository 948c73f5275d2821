"""Models that come with jaxpu.  Their names stand wherever a run or an archive does."""

from pathlib import Path

STARTERS = {"vocals": "starter", "drums": "starter-drums"}
"""Their names by target."""

_FOLDER = Path(__file__).resolve().parent.parent / "starters"


def starter_path(name: str) -> Path:
    """The archive of a starter."""
    return _FOLDER / f"{name}.zip"


def starter_of(path: str | Path, target: str) -> str | Path:
    """The name of the starter of a target in place of `starter`; any other path, and an unknown target's, as it is."""
    return STARTERS.get(target, path) if str(path) == STARTERS["vocals"] and not Path(path).exists() else path


def resolved(path: str | Path) -> Path:
    """The archive of a starter for its name, unless there is a file or folder of that name; any other path as it is."""
    path = Path(path)
    return starter_path(str(path)) if str(path) in STARTERS.values() and not path.exists() else path
