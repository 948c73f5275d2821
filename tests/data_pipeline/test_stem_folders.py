"""Songs with stems of any names."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.errors import AudioError, DataError
from data_pipeline.prepare import prepare
from data_pipeline.recordings import Recording, Track
from data_pipeline.stem_folders import find_songs
from data_pipeline.tracks import Musdb18HQ, Stems, detect_source, find_tracks

RATE = 8000
NAMES = ("lead guitar", "strings", "choir")


def samples(song: int, name: str) -> np.ndarray:
    return np.random.default_rng([song, *name.encode()]).integers(-3000, 3000, (2 * RATE, 2)).astype(np.int16)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six songs: 0 has a mixture file, 1 lacks the target, 2 has the target alone, 5 is a test song; in WAV and FLAC."""
    for song in range(6):
        folder = tmp_path / ("test" if song == 5 else "train") / f"Song {song}"
        folder.mkdir(parents=True)
        for name in {1: NAMES[1:], 2: NAMES[:1]}.get(song, NAMES):
            soundfile.write(folder / f"{name}.{'flac' if song % 2 else 'wav'}", samples(song, name), RATE, "PCM_16")
        if song == 0:
            soundfile.write(folder / "mixture.wav", sum(samples(song, name) for name in NAMES), RATE, "PCM_16")
        (folder / "notes.txt").write_text("-")
    return tmp_path


def tracks(corpus: Path, *target: str) -> dict[str, Track]:
    found = find_tracks(detect_source(corpus), target, validation_share=0.3, seed=0)
    return {track.name: track for track in found}


def read(recording: Recording | None) -> np.ndarray:
    assert recording is not None
    return np.round(recording.read().T * 2**15).astype(np.int64)


def test_signals_are_sums_of_the_stems(corpus):
    found = tracks(corpus, "lead guitar")
    assert detect_source(corpus) == Stems(corpus)
    assert {name: track.split for name, track in found.items() if track.split == "test"} == {"Song 5": "test"}
    for number in (0, 3, 4, 5):
        track, own = found[f"Song {number}"], {name: samples(number, name).astype(np.int64) for name in NAMES}
        np.testing.assert_array_equal(read(track.mixture), sum(own.values()))
        np.testing.assert_array_equal(read(track.accompaniment), own["strings"] + own["choir"])
        np.testing.assert_array_equal(read(track.target), own["lead guitar"])
        np.testing.assert_array_equal(read(track.stem("choir")), own["choir"])


def test_songs_in_a_folder_of_the_name_test_are_training_songs(corpus):
    (corpus / "test").rename(corpus / "held back")
    (corpus / "train").rename(corpus / "test")
    assert {track.split for track in find_songs(corpus / "test", ("lead guitar",), print)} == {"train"}
    assert {track.split for track in find_songs(corpus, ("lead guitar",), print)} == {"test"}
    config = DataConfig(
        PatchSpec(sample_rate=RATE, clip_samples=4000, n_fft=256, win_length=256, hop_length=128), target=("choir",)
    )
    with pytest.raises(DataError, match="the training split has no songs"):
        prepare(Stems(corpus), config, corpus.parent / "data", num_workers=1, progress=False)


def test_a_song_with_a_mixture_alone_is_left_out(corpus):
    (corpus / "train" / "Unsplit").mkdir()
    soundfile.write(corpus / "train" / "Unsplit" / "mixture.wav", samples(6, "all"), RATE, "PCM_16")
    said = []
    found = find_songs(corpus, ("lead guitar",), said.append)
    assert len(found) == 6
    assert "Unsplit" not in {track.name for track in found}
    assert said[0].endswith("Left out, with a mixture alone: Unsplit.")


def test_what_does_not_count_is_told(corpus, capsys):
    for name in ("Single", "train/Artist/Song"):
        (corpus / name).mkdir(parents=True)
        soundfile.write(corpus / name / "strings.wav", samples(9, "strings"), RATE)
    (corpus / "train/Song 0/choir.mp4").write_bytes(b"")
    find_songs(corpus, ("strings",), print)
    told = capsys.readouterr().out
    assert "Left out, outside train and test: Single." in told
    assert "Left out, without stems of their own: Artist." in told
    assert "Left out, not audio: choir.mp4." in told


def test_stems_that_a_song_lacks_are_silent(corpus):
    found = tracks(corpus, "lead guitar")
    assert not read(found["Song 1"].target).any()
    assert not read(found["Song 1"].stem("lead guitar")).any()
    np.testing.assert_array_equal(read(found["Song 1"].accompaniment), read(found["Song 1"].mixture))
    assert not read(found["Song 2"].accompaniment).any()
    np.testing.assert_array_equal(read(found["Song 2"].target), samples(2, "lead guitar"))


def test_a_target_of_several_stems(corpus):
    track = tracks(corpus, "lead guitar", "choir")["Song 3"]
    np.testing.assert_array_equal(read(track.accompaniment), samples(3, "strings"))
    np.testing.assert_array_equal(read(track.target), samples(3, "lead guitar").astype(np.int64) + samples(3, "choir"))


def test_without_split_folders_all_songs_are_for_training(corpus):
    found = find_tracks(Stems(corpus / "train"), ("choir",), validation_share=0.3, seed=0)
    assert {track.split for track in found} == {"train", "validation"}
    assert len(found) == 5


def test_the_layout_of_musdb18_hq_stays_strict(tmp_path):
    names = ("mixture", "vocals", "drums", "bass", "other")
    for song, stems in (("One", names[:-1]), ("Two", names)):
        (tmp_path / "train" / song).mkdir(parents=True)
        for name in stems:
            soundfile.write(tmp_path / "train" / song / f"{name}.wav", samples(0, name), RATE)
        # Songs that all lack a stem are no incomplete ones.
        assert detect_source(tmp_path) == (Musdb18HQ if song == "Two" else Stems)(tmp_path)
    with pytest.raises(AudioError, match=r"other\.wav: does not exist"):
        find_tracks(detect_source(tmp_path), ("vocals",), validation_share=0.3, seed=0)[0].check()


@pytest.mark.parametrize("target", [("guitar",), NAMES, ("mixture",)])
def test_a_target_that_is_not_among_the_stems_is_refused_with_their_names(corpus, target):
    with pytest.raises(AudioError, match=r"choir \(5 songs\)"):
        tracks(corpus, *target)


def test_two_files_of_one_name_are_refused(corpus):
    (corpus / "train" / "Song 0" / "choir.flac").write_bytes((corpus / "train" / "Song 1" / "choir.flac").read_bytes())
    with pytest.raises(AudioError, match=r"Song 0: has choir\.flac and choir\.wav"):
        tracks(corpus, "choir")


def test_data_are_prepared_from_any_stems(corpus, capsys):
    patch = PatchSpec(sample_rate=RATE, clip_samples=4000, n_fft=256, win_length=256, hop_length=128, level="reference")
    config = DataConfig(patch=patch, target=("lead guitar",), activity_on="off", validation_share=0.3)
    dataset = prepare(Stems(corpus), config, corpus / "data", num_workers=1, skip_bad=True)
    assert dataset.has_stems
    assert list(dataset.info["skipped"]) == ["Song 2"], "its accompaniment is silent"
    batch = next(dataset.batches("train", batch_size=4, seed=0, disjoint_tracks=False, with_target=True))
    lacking = [track.id for split in ("train", "validation") for track in dataset.tracks(split) if track.name == "Song 1"]
    for target, track in zip(batch["target"], batch["unlabeled_track"], strict=True):
        assert target.any() == (int(track) not in lacking)
    said = capsys.readouterr().out
    assert "6 songs with the stems choir (5), lead guitar (5), strings (5)" in said
    assert "do not sum to the mixture" not in said, "a song without the target sums as well"
    assert dataset.info["residual_db"].keys() == {f"Song {number}" for number in (0, 1, 3, 4)}
