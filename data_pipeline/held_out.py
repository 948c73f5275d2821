"""Validation where whole recordings cannot be spared: a stretch of a recording is held out, apart from the part to train on."""

import dataclasses

import numpy as np

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.layout import SIGNALS, Signal
from data_pipeline.publishing import MadeTrack
from data_pipeline.recordings import Track


@dataclasses.dataclass(frozen=True)
class Stretch:
    """The end of a training track that is held out for validation.

    Attributes:
        track_id: number of the track.
        signals: signals of which the validation split has no active clips otherwise.
        end: end of the part to train on, in clips.
        begin: begin of the held-out part, in clips: `end` + 1, so that one clip between them is left out.
    """

    track_id: int
    signals: tuple[Signal, ...]
    end: int
    begin: int

    def parts(self, track: Track, config: DataConfig) -> tuple[Track, Track]:
        """The part of the track to train on, and the held-out one."""
        rate = track.check().sample_rate

        def samples(clips: int) -> int:  # Rounded up, so that a resampled part is not a sample short of its last clip.
            return -(-clips * config.patch.clip_samples * rate // config.patch.sample_rate)

        end, begin = samples(self.end), samples(self.end) + samples(self.begin - self.end)
        trained = track.stretch(f"{track.name} [to {end / rate:.2f} s]", "train", (0, end))
        return trained, track.stretch(f"{track.name} [from {begin / rate:.2f} s]", "validation", (begin, None))


def choose_stretches(made: list[MadeTrack], config: DataConfig) -> list[Stretch]:
    """Choose what to hold out, so that the validation split has active clips of every signal that the training split has.

    The validation split lacks them where a folder has one recording, or where the activity rule drops all clips of those that
    were drawn.  Of the training tracks of such a signal, the one with the most active clips gives its last ones: the fraction
    `config.validation_share` of the active clips of all, but at most half of its own.

    Args:
        made: all tracks of the dataset.
        config: settings of the data.

    Raises:
        DataError: no training track is long enough for an active clip in each part and a clip between them.
    """
    kept = {(split, signal): 0 for split in ("train", "validation") for signal in SIGNALS}
    for track in made:
        for signal, number in track.kept.items():
            kept[track.split, signal] += number  # type: ignore[index]
    lacking = [signal for signal in SIGNALS if kept["train", signal] and not kept["validation", signal]]
    stretches: list[Stretch] = []
    for signal in lacking:
        if any(signal in stretch.signals for stretch in stretches):
            continue  # With stems, one track gives both.
        candidates = [track for track in made if track.split == "train" and track.kept.get(signal)]
        total = sum(len(_clips(track, signal, config)) for track in candidates)
        chosen = max(candidates, key=lambda track: len(_ends(track, lacking, config)))
        ends = _ends(chosen, lacking, config)
        if not ends:
            marked = chosen.marked and bool(_ends(chosen, ["mixture"], config))  # The song itself is long enough.
            inactive = "" if config.activity_on == "off" else f" or activity_on = off (now {config.activity_on})"
            short, more = ("has too short marks", "marks") if marked else ("is too short", "recordings")
            raise DataError(
                f"{chosen.name}: {short} to hold out a part for validation, which has no active {signal} clips otherwise. "
                f"Three clips of {config.patch.clip_s:.2f} s are needed, the first and the last active. Give more or longer "
                f"{more}, or use shorter clips (clip_samples){inactive}."
            )
        number = min(max(round(config.validation_share * total), 1), max(len(_clips(chosen, signal, config)) // 2, 1))
        begin = ends[-min(number, len(ends))]
        stretches.append(Stretch(chosen.id, tuple(other for other in lacking if other in chosen.kept), begin - 1, begin))
    return stretches


def _clips(track: MadeTrack, signal: Signal, config: DataConfig) -> set[int]:
    """The active clips of a track, those that overlap in marked passages by the clip of the grid in which they begin."""
    return {start // config.patch.clip_samples for _, start, active in track.rows.get(signal, []) if active}


def _ends(track: MadeTrack, lacking: list[Signal], config: DataConfig) -> list[int]:
    """Active clips of a track that the held-out part may begin with: an active one to train on and a gap lie before them."""
    length = config.patch.clip_samples
    active = [
        np.array([start for _, start, active in track.rows.get(signal, []) if active], int)
        for signal in lacking
        if signal in track.kept
    ]
    if not all(map(len, active)):
        return []
    # Each part needs an active clip of each signal.  Clips in marked passages need not lie on the grid of clips.
    least = max(-(-starts[0] // length) for starts in active) + 2
    most = min(starts[-1] // length for starts in active)
    clips = sorted({start // length for starts in active for start in starts.tolist()})
    return [clip for clip in clips if least <= clip <= most]
