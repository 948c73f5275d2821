"""Parts of a song played by the program fluidsynth with a sound font."""

import dataclasses
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soundfile

from data_pipeline.errors import CorpusError
from data_pipeline.rendered.programs import run

if TYPE_CHECKING:
    import mido

DRUM_CHANNEL = 9
_TICKS_PER_BEAT, _BPM = 1000, 60.0  # A tick is a millisecond.
_MODULATION, _PAN, _REVERB, _CHORUS = 1, 10, 91, 93
_BEND_RANGE = 2.0  # semitones, of General MIDI
_SCOOP_S, _SCOOP_STEPS = 0.12, 8


@dataclasses.dataclass(frozen=True)
class Note:
    """A note.

    Attributes:
        onset_s: onset in seconds.
        length_s: length in seconds.
        pitch: MIDI number.
        velocity: 1 to 127.
        scoop: semitones, at most 2, below the pitch at which it begins; also of other notes that sound at the time.
    """

    onset_s: float
    length_s: float
    pitch: int
    velocity: int
    scoop: float = 0.0


@dataclasses.dataclass(frozen=True)
class Part:
    """The notes of one player, and how they sound.

    Attributes:
        notes: the notes.
        program: of General MIDI.
        is_drums: the program is a drum kit.
        pan: position from 0 (left) to 1 (right).
        reverb: level of the hall, 0 to 1.
        vibrato: depth, 0 to 1.
    """

    notes: tuple[Note, ...]
    program: int
    is_drums: bool = False
    pan: float = 0.5
    reverb: float = 0.2
    vibrato: float = 0.0


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
        said = run(["fluidsynth", *options, str(sound_font), str(score)], stdout=subprocess.DEVNULL).stderr
        if b"error:" in said:  # Its exit status is 0.
            reason = next(line for line in said.decode(errors="replace").splitlines() if "error:" in line)
            raise CorpusError(f"fluidsynth cannot play with {sound_font}: {reason}. Perhaps the sound font is damaged.")
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
    for control, value in ((_MODULATION, part.vibrato), (_PAN, part.pan), (_REVERB, part.reverb), (_CHORUS, 0.0)):
        track.append(mido.Message("control_change", channel=channel, control=control, value=round(127 * value)))
    last = 0
    for tick, _, message in sorted(_events(part, channel), key=lambda event: event[:2]):
        track.append(message.copy(time=tick - last))
        last = tick
    return file


def _events(part: Part, channel: int) -> Iterator[tuple[int, int, "mido.Message"]]:
    """Messages with their tick and their order within it: a note ends before the next begins, and bends before it begins."""
    import mido

    for note in part.notes:
        begin = max(round(1000 * note.onset_s), 0)
        end = max(round(1000 * (note.onset_s + note.length_s)), begin + 1)
        yield end, 0, mido.Message("note_off", channel=channel, note=note.pitch, velocity=0)
        yield begin, 2, mido.Message("note_on", channel=channel, note=note.pitch, velocity=note.velocity)
        if note.scoop:
            for step in range(_SCOOP_STEPS + 1):
                bend = round(8191 * note.scoop / _BEND_RANGE * (step / _SCOOP_STEPS - 1))
                tick = begin + round(1000 * _SCOOP_S * step / _SCOOP_STEPS)
                yield tick, 1, mido.Message("pitchwheel", channel=channel, pitch=bend)
