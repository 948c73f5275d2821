"""Parts of a song played by the program fluidsynth with a sound font."""

import dataclasses
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soundfile

from data_pipeline.rendered.programs import run

if TYPE_CHECKING:
    import mido

DRUM_CHANNEL = 9
_TICKS_PER_BEAT, _BPM = 1000, 60.0  # A tick is a millisecond.
_PAN, _REVERB, _CHORUS = 10, 91, 93


@dataclasses.dataclass(frozen=True)
class Note:
    """A note: onset and length in seconds, pitch as a MIDI number, and velocity from 1 to 127."""

    onset_s: float
    length_s: float
    pitch: int
    velocity: int


@dataclasses.dataclass(frozen=True)
class Part:
    """What one player plays: notes, program of General MIDI, position from 0 (left) to 1 (right), and level of the hall."""

    notes: tuple[Note, ...]
    program: int
    is_drums: bool = False
    pan: float = 0.5
    reverb: float = 0.2


def play(part: Part, num_samples: int, sample_rate: int, sound_font: Path) -> npt.NDArray[np.float32]:
    """Play a part.

    Returns:
        float32 (2, num_samples).

    Raises:
        CorpusError: fluidsynth is missing or fails.
    """
    signal = np.zeros((2, num_samples), np.float32)
    if not part.notes:
        return signal
    with tempfile.TemporaryDirectory() as folder:
        score, played = Path(folder, "part.mid"), Path(folder, "part.wav")
        _midi(part).save(score)
        options = ["-niq", "-g", "0.5", "-r", str(sample_rate), "-O", "float", "-T", "wav", "-F", str(played)]
        # Otherwise every part reads the whole sound font, hundreds of MB.
        options += ["-o", "synth.dynamic-sample-loading=1"]
        run(["fluidsynth", *options, str(sound_font), str(score)], stdout=subprocess.DEVNULL)
        samples = soundfile.read(played, dtype="float32", always_2d=True, frames=num_samples)[0].T
    signal[:, : samples.shape[1]] = samples
    return signal


def _midi(part: Part) -> "mido.MidiFile":
    import mido

    file = mido.MidiFile(ticks_per_beat=_TICKS_PER_BEAT)
    track = mido.MidiTrack()
    file.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(_BPM)))
    channel = DRUM_CHANNEL if part.is_drums else 0
    track.append(mido.Message("program_change", program=part.program, channel=channel))
    for control, value in ((_PAN, part.pan), (_REVERB, part.reverb), (_CHORUS, 0.0)):
        track.append(mido.Message("control_change", channel=channel, control=control, value=round(127 * value)))
    events = []
    for note in part.notes:
        begin = max(round(1000 * note.onset_s), 0)
        end = max(round(1000 * (note.onset_s + note.length_s)), begin + 1)
        events += [(begin, 1, note.pitch, note.velocity), (end, 0, note.pitch, 0)]
    last = 0
    for tick, sounds, pitch, velocity in sorted(events):
        kind = "note_on" if sounds else "note_off"
        track.append(mido.Message(kind, channel=channel, note=pitch, velocity=velocity, time=tick - last))
        last = tick
    return file
