"""Preparation from recordings with marked passages."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import DataError
from data_pipeline.prepare import prepare
from data_pipeline.synthetic.songs import synthesize
from data_pipeline.tracks import Folders

RATE = 8000
CONFIG = DataConfig(
    patch=PatchSpec(
        sample_rate=RATE, clip_samples=4000, n_fft=256, win_length=256, hop_length=128, window="hann", level="recording"
    ),
    activity_on="off",
    validation_share=0.25,
)
MARKS = ((1.0, 3.0), (5.0, 5.3), (7.25, 9.0))


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Four songs of 12 s, each at a level of its own; in the marked passages there is noise alone."""
    for number in range(4):
        rng = np.random.default_rng(number)
        time = np.arange(12 * RATE) / RATE
        plays = ~np.any([(time >= begin) & (time < end) for begin, end in MARKS], axis=0)
        signal = 0.05 * rng.standard_normal(len(time)) + 0.2 * plays * np.sin(2 * np.pi * 440 * time)
        write(tmp_path / "songs" / f"Song {number}.wav", signal * (1 + number) / 4)
        label(tmp_path / "labels" / f"Song {number}.txt", *MARKS)
    return tmp_path / "songs"


def write(path: Path, signal: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, signal, RATE, "FLOAT")


def label(path: Path, *marks: tuple[float, float]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{begin:.6f}\t{end:.6f}\t\n" for begin, end in marks))


def make(songs: Path, *, without: Path | None = None, config: DataConfig = CONFIG) -> PatchDataset:
    source = Folders(songs, without, songs.parent / "labels")
    return prepare(source, config, songs.parent / "data", num_workers=1, progress=True)


def starts(dataset: PatchDataset, split: str, signal: str) -> dict[int, list[float]]:
    """First seconds of the clips, by track."""
    index = dataset.index(split, signal)  # type: ignore[arg-type]
    return {track: (index.start[index.track == track] / RATE).tolist() for track in np.unique(index.track).tolist()}


def test_marks_shorter_than_a_clip_are_named(songs):
    for number in range(4):
        label(songs.parent / "labels" / f"Song {number}.txt", (2.0, 2.3))
    with pytest.raises(DataError, match=r"no marked passage of the training split is as long as a clip of 0\.50 s"):
        make(songs)


def test_clips_lie_across_touching_marks(songs):
    label(songs.parent / "labels" / "Song 0.txt", (1.0, 1.3), (1.3, 1.6), (1.5, 2.0))
    label(songs.parent / "labels" / "Song 1.txt", (1.0, 2.0))
    dataset = make(songs)
    found = {name: starts for split in ("train", "validation") for name, starts in starts_by_name(dataset, split).items()}
    assert found["with_target/Song 0.wav"] == found["with_target/Song 1.wav"] != []


def starts_by_name(dataset: PatchDataset, split: str) -> dict[str, list[float]]:
    """First seconds of the positive clips, by the name of the track."""
    names = {track.id: track.name for track in dataset.tracks(split)}  # type: ignore[arg-type]
    return {names[track]: found for track, found in starts(dataset, split, "accompaniment").items()}


def test_a_recording_of_which_nothing_is_kept_is_named(songs, capsys):
    write(songs / "Quiet.wav", 1e-5 * np.random.default_rng(0).standard_normal(12 * RATE))
    make(songs, config=dataclasses.replace(CONFIG, activity_on="mixture"))
    assert "Recordings of which no clip was kept: 1 (with_target/Quiet.wav)." in capsys.readouterr().out


def test_everything_marked_is_named(songs):
    for number in range(4):
        label(songs.parent / "labels" / f"Song {number}.txt", (0.0, 12.0))
    with pytest.raises(
        DataError, match=r"mixture was kept \(activity_on = off\)\. Give louder .*, or mark less: marked passages"
    ):
        make(songs)


def test_a_folder_of_somebody_else_is_not_removed(songs):
    take = songs.parent / "data" / "unfinished" / "demo" / "take.wav"
    take.parent.mkdir(parents=True)
    take.write_bytes(b"music")
    for _ in range(2):
        with pytest.raises(DataError, match="holds files that jaxpu did not write"):
            make(songs)
    take.rename(songs.parent / "take.wav")
    make(songs)
    # Nor beside finished data.
    take.parent.mkdir(parents=True)
    take.write_bytes(b"music")
    with pytest.raises(DataError, match="holds files that jaxpu did not write"):
        make(songs)
    assert take.read_bytes() == b"music"


def test_nothing_without_the_target_is_named(songs):
    with pytest.raises(DataError, match=r"the training split has no material without the target.*--marks.*--without"):
        prepare(Folders(songs, None, None), CONFIG, songs.parent / "data", num_workers=1, progress=False)


def test_marked_passages_give_overlapping_positive_clips_and_songs_are_held_out_with_their_marks(songs, capsys):
    dataset = make(songs)
    assert [len(dataset.tracks(split)) for split in ("train", "validation")] == [3, 1]
    for split in ("train", "validation"):
        expected = [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 7.25, 7.5, 7.75, 8.0, 8.25, 8.5]
        positive = starts(dataset, split, "accompaniment")
        assert all(found == expected for found in positive.values())
        mixtures = starts(dataset, split, "mixture")
        assert positive.keys() == mixtures.keys()
        # Of the clips every half second, those with their middle in a mark are no mixtures.
        unmarked = [0.0, 0.5, *np.arange(3, 5, 0.5), *np.arange(5.5, 7, 0.5), *np.arange(9, 12, 0.5)]
        assert all(found == unmarked for found in mixtures.values())
    count = dataset.info["counts"]["train_accompaniment"]
    assert (count["tracks"], count["marked_tracks"]) == (3, 3)
    assert count["kept_s"] == count["marked_s"] == pytest.approx(3 * 3.75), "each second counts once"
    said = capsys.readouterr().out
    assert "Audacity labels for 4 of 4 recordings, 12 passages" in said
    assert "Marked passages: 0.2 min of 3 songs and 0.1 min of 1 songs" in said
    assert "1.2 s in passages shorter than a clip of 0.50 s are lost" in said
    assert "0.2 min of target-free material" in said, "less than a minute is warned of"


def test_clips_need_not_overlap(songs):
    dataset = make(songs, config=dataclasses.replace(CONFIG, marked_hop=1.0))
    for found in starts(dataset, "train", "accompaniment").values():
        assert found == [1.0, 1.5, 2.0, 2.5, 7.25, 7.75, 8.25]


def test_a_passage_has_the_level_of_its_song(songs):
    batch = next(make(songs).batches("train", batch_size=128, seed=0, disjoint_tracks=True, with_target=False))
    levels: dict[int, set[float]] = {}
    for role in ("unlabeled", "positive"):
        for track, level in zip(batch[f"{role}_track"], batch[f"{role}_level"], strict=True):
            levels.setdefault(int(track), set()).add(float(level))
    assert len(levels) == 3
    assert all(len(found) == 1 for found in levels.values())


def test_the_records_of_a_passage_are_the_samples_there(songs):
    dataset = make(songs)
    batch = next(dataset.batches("train", batch_size=8, seed=0, disjoint_tracks=True, with_target=False))
    assert batch["marked"].all()
    for clip, level, track in zip(batch["positive"], batch["positive_level"], batch["positive_track"], strict=True):
        # White noise of a known deviation, in the scale of its song.
        spectrum = clip[0, 4:-4].astype(np.float64) @ [1, 1j]
        deviation = np.sqrt(np.mean(np.abs(spectrum) ** 2) / np.sum(np.hanning(257)[:-1] ** 2)) * level
        assert deviation == pytest.approx(0.05 * (1 + int(track)) / 4, rel=0.1)


def test_karaoke_songs_work_as_they_are(tmp_path, capsys):
    """Synthesized songs in UltraStar's folders, with a note for each tenth of a second with vocals: none from 6 to 14 s."""
    corpus = synthesize(tmp_path / "corpus", num_train=3, num_test=0, seconds=18.0, sample_rate=RATE, num_workers=1)
    accompaniments, frame = {}, RATE // 10
    for song in sorted((corpus / "train").iterdir()):
        folder = tmp_path / "karaoke" / f"Somebody - {song.name}"
        folder.mkdir(parents=True)
        vocals = soundfile.read(song / "vocals.wav")[0]
        vocals[6 * RATE : 14 * RATE] = 0
        accompaniments[song.name] = sum(soundfile.read(song / f"{name}.wav")[0] for name in ("drums", "bass", "other"))
        write(folder / "audio.wav", vocals + accompaniments[song.name])
        sung = np.flatnonzero(np.abs(vocals).reshape(-1, frame).max(1) > 1e-3)
        # At 300 beats a minute a quarter beat, in which UltraStar counts, lasts 1/20 s.
        notes = "".join(f": {2 * number} 2 5 la\n" for number in sung)
        (folder / "song.txt").write_text(f"#TITLE:{song.name}\n#MP3:audio.wav\n#BPM:300\n#GAP:0\n{notes}E\n")
    folder = tmp_path / "karaoke"
    dataset = prepare(Folders(folder, None, folder), CONFIG, tmp_path / "data", num_workers=1, progress=True)
    assert "UltraStar notes for 3 of 3 recordings" in capsys.readouterr().out
    index, names = dataset.index("train", "accompaniment"), {track.id: track.name for track in dataset.tracks("train")}
    assert set(np.unique(index.track).tolist()) == names.keys()
    for track, start in zip(index.track.tolist(), index.start.tolist(), strict=True):
        clip = slice(start, start + CONFIG.patch.clip_samples)
        mixture = soundfile.read(folder / names[track].removeprefix("with_target/"))[0]
        (accompaniment,) = (samples for name, samples in accompaniments.items() if name in names[track])
        np.testing.assert_allclose(mixture[clip], accompaniment[clip], atol=1e-6)


def test_other_recordings_can_be_given_too(songs):
    for number in range(4):
        write(songs.parent / "free" / f"Free {number}.wav", 0.5 * np.random.default_rng(9 + number).standard_normal(4 * RATE))
    dataset = make(songs, without=songs.parent / "free")
    count = dataset.info["counts"]["train_accompaniment"]
    assert (count["tracks"], count["marked_tracks"]) == (6, 3)
    assert count["kept_s"] == pytest.approx(count["marked_s"] + 3 * 4)
    batch = next(dataset.batches("train", batch_size=64, seed=0, disjoint_tracks=True, with_target=False))
    assert 0 < batch["marked"].sum() < 64
    np.testing.assert_array_equal(batch["marked"], np.isin(batch["positive_track"], dataset.marked_tracks))


def test_of_a_single_song_the_end_is_held_out_with_the_marks_there(songs):
    for number in range(1, 4):
        (songs / f"Song {number}.wav").unlink()
        (songs.parent / "labels" / f"Song {number}.txt").unlink()
    dataset = make(songs)
    (train,), (validation,) = dataset.tracks("train"), dataset.tracks("validation")
    assert train.name.startswith("with_target/Song 0.wav [to ")
    assert validation.name.startswith("with_target/Song 0.wav [from ")
    assert train.kept["accompaniment"] > 0
    assert validation.kept["accompaniment"] > 0


def test_changed_marks_change_the_data_of_their_song_alone(songs):
    first = make(songs).fingerprint
    assert make(songs).fingerprint == first
    label(songs.parent / "labels" / "Song 2.txt", (1.0, 3.0))
    again = make(songs)
    assert again.fingerprint != first
    assert {track.name: track.kept["accompaniment"] for split in ("train", "validation") for track in again.tracks(split)} == {
        f"with_target/Song {number}.wav": 7 if number == 2 else 13 for number in range(4)
    }


def test_marks_beyond_the_end_are_named(songs):
    label(songs.parent / "labels" / "Song 1.txt", (11.0, 14.0))
    with pytest.raises(DataError, match=r"Song 1\.txt, line 1: marks 11 s to 14 s of .*Song 1\.wav, which lasts 12\.00 s"):
        make(songs)
