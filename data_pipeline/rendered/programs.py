"""Programs that play, speak and filter: found before the first song, and run with their own words when they fail."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.errors import CorpusError

PROGRAMS = ("fluidsynth", "flite", "espeak-ng", "ffmpeg")
PACKAGES = ("mido", "pyworld")
SOUND_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
"""A sound font of General MIDI under the MIT licence."""

INSTALL = 'Install them: apt-get install fluidsynth fluid-soundfont-gm flite espeak-ng ffmpeg, and pip install "jaxpu[render]".'


def check_programs(sound_fonts: Sequence[Path]) -> None:
    """Raise CorpusError if a program, a sound font or a package that rendering needs is missing, or a sound font is none."""
    if not sound_fonts:
        raise CorpusError("Rendered songs need at least one sound font.")
    missing = [f"the program {name}" for name in PROGRAMS if shutil.which(name) is None]
    missing += [f"the sound font {path}" for path in sound_fonts if not path.is_file()]
    for path in sound_fonts:
        if path.is_file() and not _is_sound_font(path):
            raise CorpusError(f"{path}: is no sound font, or not a whole one. Give another file, or copy it again.")
    missing += [f"the package {name}" for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CorpusError(f"Rendered songs need {', '.join(missing)}. {INSTALL}")


def _is_sound_font(path: Path) -> bool:
    """Whether a file begins as sound fonts do and is as long as it says; fluidsynth would play its default font in its place."""
    with path.open("rb") as file:
        header = file.read(12)
    whole = path.stat().st_size >= 8 + int.from_bytes(header[4:8], "little")
    return header[:4] == b"RIFF" and header[8:] == b"sfbk" and whole


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end.

    Raises:
        CorpusError: it is missing, or its exit status is not 0; with the first line of what it says.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(command, check=True, stderr=subprocess.PIPE, env=environment, **options)
    except FileNotFoundError as error:
        raise CorpusError(f"The program {command[0]} is not found. {INSTALL}") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise CorpusError(f"{command[0]} fails with status {error.returncode}: {said[0]}.") from error
