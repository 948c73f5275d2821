"""Elements of an HTML page that holds its pictures and sounds itself."""

import base64
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import soxr

from data_pipeline import audio

MP3_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""Rates in Hz at which every browser plays mp3."""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text, with a CSS class."""
    return f'<p class="{kind}">{escape(text)}</p>'


def figure(picture: bytes, alt: str, caption: str, kind: str = "curve") -> str:
    """A WebP picture with its description for screen readers and its caption, and a CSS class."""
    image = f'<img src="{_data_url("image/webp", picture)}" alt="{escape(alt)}">'
    return f'<figure class="{kind}"><div>{image}</div><figcaption>{escape(caption)}</figcaption></figure>'


def table(headings: Sequence[str], rows: Sequence[str], label: str) -> str:
    """A table of rows of `table_row`, which scrolls on its own where it is wider than the page."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def table_row(heading: str, values: Sequence[tuple[float | None, str]], kind: str = "") -> str:
    """A row of a table: numbers with their formats, a dash for None, and a CSS class."""
    cells = "".join(f"<td>{'-' if value is None else format(value, spec)}</td>" for value, spec in values)
    return f'<tr class="{kind}"><th scope="row">{escape(heading)}</th>{cells}</tr>'


def sources(sounds: Mapping[str, np.ndarray], rate: int, number: int) -> Iterator[str]:
    """The choices of a player, each with its sound.

    Args:
        sounds: float32 (channels, samples) by label.
        rate: of the sounds, in Hz.
        number: of the player on its page.
    """
    for index, (label, waveform) in enumerate(sounds.items()):
        checked = " checked" if index == 0 else ""
        yield (
            f'<label><input type="radio" name="song-{number}"{checked}><span>{escape(label)}</span>'
            f'<audio loop preload="auto" data-src="{_data_url("audio/mpeg", _mp3(waveform, rate))}"></audio></label>'
        )


def _mp3(waveform: np.ndarray, rate: int) -> bytes:
    """An mp3 file of a waveform (channels, samples), at 44.1 kHz if browsers may not play its own rate."""
    if rate not in MP3_RATES:
        waveform, rate = soxr.resample(waveform.T, rate, 44_100).T, 44_100
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.mp3"
        with audio.Writer(path, rate, len(waveform)) as writer:
            writer.write(waveform)
        return path.read_bytes()


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
