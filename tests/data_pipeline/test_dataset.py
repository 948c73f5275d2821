"""Batches of a prepared dataset: what they contain, in which order, and for which process."""

import dataclasses
import itertools
import json
import shutil
import sys

import numpy as np
import pytest
import soundfile

from data_pipeline import lazy_tensorflow, tfds_metadata
from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import DataError
from data_pipeline.patches import PatchMaker
from data_pipeline.prepare import prepare
from data_pipeline.tfrecord import RecordWriter, encode_example, read_clip
from data_pipeline.tracks import Folders, Musdb18HQ, find_tracks

RATE = 8000
CONFIG = DataConfig(
    patch=PatchSpec(sample_rate=RATE, clip_samples=2000, n_fft=256, win_length=256, hop_length=128, stereo=True),
    validation_share=0.3,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    for song in range(6):
        folder = root / "train" / f"Song {song}"
        folder.mkdir(parents=True)
        generator = np.random.default_rng([7, song])
        stems = {name: generator.integers(-3000, 3000, (RATE * (1 + song % 3), 2)).astype(np.int16) for name in STEMS}
        for name, stem in (stems | {"mixture": sum(stems.values())}).items():
            soundfile.write(folder / f"{name}.wav", stem, RATE, subtype="PCM_16")
    return Musdb18HQ(root)


@pytest.fixture(scope="module")
def dataset(source, tmp_path_factory):
    return prepare(source, CONFIG, tmp_path_factory.mktemp("data") / "data", num_workers=1, progress=False)


@pytest.fixture(scope="module")
def expected(source, dataset, tmp_path_factory):
    """Content of the records computed from the audio: float16 (clips, ...) by signal and track."""
    names = {track.name: track.id for split in ("train", "validation") for track in dataset.tracks(split)}
    found = {}
    for track in find_tracks(source, CONFIG.target, validation_share=CONFIG.validation_share, seed=CONFIG.seed):
        for part in PatchMaker(CONFIG).track(track, tmp_path_factory.mktemp("scratch")).patches():
            found.setdefault((part.signal, names[track.name]), []).append(part.stft.copy())
    return {key: np.concatenate(parts) for key, parts in found.items()}


def take(dataset, num_steps, split="train", **options):
    options = {"batch_size": 4, "seed": 1, "disjoint_tracks": True, "with_target": False} | options
    return list(dataset.batches(split, num_steps=num_steps, **options))


def same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name, array in batch.items():
            np.testing.assert_array_equal(array, other[name])


def clip_of(expected, signal, track, patch):
    """Number of a patch among the clips of its track."""
    matches = np.flatnonzero((expected[signal, track] == patch).all(axis=(1, 2, 3, 4)))
    assert len(matches) == 1
    return int(matches[0])


def test_batches_have_the_promised_shapes_and_types(dataset):
    (batch,) = take(dataset, 1, with_target=True)
    assert batch.keys() == {
        "unlabeled",
        "positive",
        "target",
        "unlabeled_track",
        "positive_track",
        "unlabeled_level",
        "positive_level",
    }
    for name in ("unlabeled", "positive", "target"):
        assert (batch[name].shape, batch[name].dtype) == ((4, *CONFIG.patch.patch_shape), np.float16)
    for name in ("unlabeled_track", "positive_track"):
        assert (batch[name].shape, batch[name].dtype) == ((4,), np.int32)


def test_a_batch_is_a_function_of_seed_and_step_alone(dataset):
    straight = take(dataset, 9, with_target=True)
    same(take(dataset, 4, start_step=5, with_target=True), straight[5:])
    same([{name: batch[name] for name in batch if name != "target"} for batch in straight], take(dataset, 9))
    assert any((a["unlabeled"] != b["unlabeled"]).any() for a, b in zip(straight, take(dataset, 9, seed=2), strict=True))
    for process_count in (2, 4):
        shares = [take(dataset, 3, process_index=p, process_count=process_count, with_target=True) for p in range(process_count)]
        joined = [{name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*shares, strict=True)]
        same(joined, straight[:3])


def test_starting_late_costs_nothing(dataset):
    # A step far beyond any epoch that could be skipped one by one; the stream has no end.
    far = dataset.batches("train", batch_size=4, seed=1, start_step=10**12, disjoint_tracks=True, with_target=False)
    same(list(itertools.islice(far, 2)), take(dataset, 2, start_step=10**12))


def test_every_epoch_is_a_permutation_of_all_clips_of_each_stream(dataset, expected):
    num_clips = dataset.num_clips("train", "mixture")
    batches = take(dataset, 2 * num_clips // 4, disjoint_tracks=False)
    for role, signal in (("unlabeled", "mixture"), ("positive", "accompaniment")):
        patches = np.concatenate([batch[role] for batch in batches])
        tracks = np.concatenate([batch[f"{role}_track"] for batch in batches]).tolist()
        seen = [(track, clip_of(expected, signal, track, patch)) for track, patch in zip(tracks, patches, strict=True)]
        everything = [(track.id, clip) for track in dataset.tracks("train") for clip in range(track.kept[signal])]
        first, second = seen[:num_clips], seen[num_clips:]
        assert sorted(first) == sorted(second) == everything
        assert first != second
        assert first != everything
    # The two streams are shuffled independently.
    assert any((batch["unlabeled_track"] != batch["positive_track"]).any() for batch in batches)


def test_a_batch_larger_than_the_split_repeats_clips(dataset, expected):
    num_clips = dataset.num_clips("validation", "mixture")
    (batch,) = take(dataset, 1, split="validation", batch_size=2 * num_clips, disjoint_tracks=False)
    seen = [
        (track, clip_of(expected, "mixture", track, patch))
        for track, patch in zip(batch["unlabeled_track"].tolist(), batch["unlabeled"], strict=True)
    ]
    everything = [(track.id, clip) for track in dataset.tracks("validation") for clip in range(track.kept["mixture"])]
    assert sorted(seen) == sorted(2 * everything)


def test_disjoint_halves_never_share_a_track(dataset):
    halves = {}
    for seed in (1, 2):
        batches = take(dataset, 20, seed=seed)
        halves[seed] = [set(np.concatenate([batch[f"{role}_track"] for batch in batches])) for role in ("unlabeled", "positive")]
        assert not halves[seed][0] & halves[seed][1]
        assert halves[seed][0] | halves[seed][1] == {track.id for track in dataset.tracks("train")}
    assert halves[1] == halves[2]  # the dataset's seed draws them, not the run's


def test_targets_of_some_tracks_are_a_stream_of_their_own(dataset):
    options = {"disjoint_tracks": True, "with_target": True, "num_target_tracks": 1}
    batches = take(dataset, 12, **options)
    same(take(dataset, 4, start_step=8, **options), batches[8:])
    # Mixtures and positives are those of a run without stems.
    same([{name: batch[name] for name in batch if name != "target"} for batch in batches], take(dataset, 12))
    aligned = take(dataset, 12, with_target=True)
    track_of = {
        t.tobytes(): int(track) for batch in aligned for t, track in zip(batch["target"], batch["unlabeled_track"], strict=True)
    }

    def tracks_of(batches):
        return {track_of[target.tobytes()] for batch in batches for target in batch["target"]}

    assert len(tracks_of(batches)) == 1
    # More tracks than there are: all of them, none of the half that gives positives.
    assert tracks_of(take(dataset, 12, **options | {"num_target_tracks": 99})) == set(track_of.values())
    assert len(set(track_of.values())) > 1
    with pytest.raises(DataError, match=r"num_target_tracks is 0; it must be positive"):
        dataset.batches("train", batch_size=4, seed=0, **options | {"num_target_tracks": 0})


@pytest.mark.parametrize("level", ["clip", "recording", "reference"])
def test_target_is_mixture_less_accompaniment_in_the_mixtures_scale(source, tmp_path, level):
    patch = dataclasses.replace(CONFIG.patch, level=level)
    config = dataclasses.replace(CONFIG, patch=patch)
    dataset = prepare(source, config, tmp_path / "data", num_workers=1, progress=False)
    for batch in take(dataset, 3, with_target=True):
        for track, mixture, target in zip(batch["unlabeled_track"], batch["unlabeled"], batch["target"], strict=True):
            name = next(row.name for row in dataset.tracks("train") if row.id == track)
            waveforms = {
                stem: soundfile.read(source.root / "train" / name / f"{stem}.wav")[0].T for stem in ("mixture", "vocals")
            }
            errors = []
            for start in range(0, waveforms["mixture"].shape[1], patch.clip_samples):
                clips = {stem: waveform[:, start : start + patch.clip_samples] for stem, waveform in waveforms.items()}
                whole = {"clip": clips, "recording": waveforms, "reference": None}[level]
                mean = 0 if whole is None else whole["vocals"].mean()
                deviation = 1 if whole is None else whole["mixture"].std(ddof=1)
                maker = PatchMaker(dataclasses.replace(config, patch=dataclasses.replace(patch, dtype="float32")))
                expected = maker.stft(((clips["vocals"] - mean) / deviation)[None].astype(np.float32))[0]
                errors.append(np.abs(expected - target).max())
            # Errors of rounding mixture, accompaniment and target to float16.
            assert min(errors) < 2**-10 * np.abs(mixture).max()
            assert sorted(errors)[1] > 100 * min(errors)


def test_a_plain_tensorflow_datasets_reader_opens_it(dataset, expected, tmp_path):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(dataset.directory)
    builder.info.write_to_directory(tmp_path)
    for name in (tfds_metadata.FEATURES_FILE, tfds_metadata.INFO_FILE):
        # As it would write them itself; but its reader says where the dataset lies.
        theirs, ours = (json.loads((folder / name).read_text()) for folder in (tmp_path, dataset.directory))
        assert {field: value for field, value in theirs.items() if field in ours} == ours
    assert set(builder.info.splits) == {f"{a}_{b}" for a in ("train", "validation") for b in ("mixture", "accompaniment")}
    for split in ("train", "validation"):
        for signal in ("mixture", "accompaniment"):
            name = f"{split}_{signal}"
            assert builder.info.splits[name].num_examples == dataset.info["counts"][name]["stored"]
            count = 0
            for example in builder.as_dataset(split=name).as_numpy_iterator():
                assert {key: value.dtype for key, value in example.items()} == {
                    "level": np.float32, "start": np.int64, "stft": np.float16, "track": np.int32,
                }  # fmt: skip
                clip = int(example["start"]) // CONFIG.patch.clip_samples
                np.testing.assert_array_equal(example["stft"], expected[signal, int(example["track"])][clip])
                count += 1
            assert count == builder.info.splits[name].num_examples


def test_preparation_does_not_import_tensorflow_datasets(source, dataset, tmp_path, monkeypatch):
    """On Colab it cannot be imported: its tensorflow-metadata is too new for the protobuf there."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False).fingerprint == dataset.fingerprint


def test_a_damaged_byte_is_an_error_that_names_the_file(dataset, tmp_path):
    directory = tmp_path / "data"
    shutil.copytree(dataset.directory, directory)
    index = dataset.index("train", "mixture")
    row = np.flatnonzero(index.shard == 1)[2]
    path = directory / dataset.shard_path("train", "mixture", 1).name
    data = bytearray(path.read_bytes())
    data[index.offset[row] + 5000] ^= 0x10
    path.write_bytes(data)
    damaged = PatchDataset.open(directory)  # the sizes are right: only the checksum tells
    with pytest.raises(DataError, match=rf"{path.name}: the record at byte {index.offset[row]} is damaged"):
        take(damaged, 20, disjoint_tracks=False)
    with path.open("r+b") as file:
        file.truncate(len(data) - 1)
    with pytest.raises(DataError, match=rf"{path.name}: has {len(data) - 1} bytes instead of {len(data)}"):
        PatchDataset.open(directory)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}: is missing"):
        PatchDataset.open(directory)
    with pytest.raises(DataError, match=rf"{path.name}: cannot be read"):  # lost while a run goes on
        take(damaged, 20, disjoint_tracks=False)


def test_what_cannot_be_given_is_refused_at_once(dataset, tmp_path):
    with pytest.raises(DataError, match="batch_size is 6 on process 0 of 4; it must be positive and a multiple"):
        take(dataset, 1, batch_size=6, process_count=4)
    with pytest.raises(DataError, match="start_step is -1"):
        take(dataset, 1, start_step=-1)
    with pytest.raises(DataError, match="holds no prepared data"):
        PatchDataset.open(tmp_path)
    (tmp_path / "jaxpu.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        PatchDataset.open(tmp_path)
    (tmp_path / "jaxpu.json").write_text('{"format": 0}')
    with pytest.raises(DataError, match=r"has format 0; .* reads format 1"):
        PatchDataset.open(tmp_path)


def test_check_names_every_field_that_differs(dataset):
    dataset.check(CONFIG)
    other = dataclasses.replace(CONFIG, seed=3, patch=dataclasses.replace(CONFIG.patch, hop_length=64))
    with pytest.raises(DataError, match=r"seed is 0 but 3 is asked for; patch.hop_length is 128 but 64 is asked for"):
        dataset.check(other)


def test_two_folders_give_unlabeled_and_positive_without_target(tmp_path):
    for role, num_files in (("with", 3), ("without", 2)):
        (tmp_path / role).mkdir()
        for number in range(num_files):
            recording = np.random.default_rng([num_files, number]).integers(-3000, 3000, 9000).astype(np.int16)
            soundfile.write(tmp_path / role / f"{number}.wav", recording, RATE)
    folders = Folders(tmp_path / "with", tmp_path / "without")
    dataset = prepare(folders, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert not dataset.has_stems
    mixtures = {track.id for track in dataset.tracks("train") if "mixture" in track.kept}
    for batch in take(dataset, 5) + take(dataset, 5, disjoint_tracks=False):
        assert set(batch["unlabeled_track"]) <= mixtures
        assert not set(batch["positive_track"]) & mixtures
    with pytest.raises(DataError, match="has no targets, for its source has no stems"):
        take(dataset, 1, with_target=True)


def test_disjoint_tracks_need_two_tracks(source, tmp_path):
    alone = tmp_path / "alone"
    for song in ("Song 0", "Song 1"):
        shutil.copytree(source.root / "train" / song, alone / "train" / song)
    dataset = prepare(Musdb18HQ(alone), CONFIG, tmp_path / "data", num_workers=1, progress=False)
    with pytest.raises(
        DataError, match="one of the two halves into which disjoint_tracks divides its tracks has no active positive"
    ):
        take(dataset, 1)
    assert take(dataset, 1, disjoint_tracks=False)


def test_the_first_batch_does_not_wait_for_tensorflow(dataset):
    with lazy_tensorflow._LOCK:  # held as long as it is imported
        batches = dataset.batches("train", batch_size=4, seed=1, num_steps=2, disjoint_tracks=True, with_target=True)
        first = next(batches)
    same([first, *batches], take(dataset, 2, with_target=True))


@pytest.mark.parametrize(("track", "start", "shape"), [(0, 0, (1,)), (127, 128, (3, 2)), (2**31 - 1, 2**62, (2, 513, 40, 2))])
def test_a_clip_is_read_as_it_was_written(tmp_path, track, start, shape):
    stft = np.random.default_rng(track).standard_normal(shape).astype(np.float16)
    path = tmp_path / "shard"
    with RecordWriter(path) as writer:
        writer.write(b"another record")
        offset = writer.write(encode_example(track=track, start=start, level=0.125, stft=stft))
    level, content = read_clip(path, offset, stft.nbytes)
    assert (level, bytes(content)) == (0.125, stft.tobytes())
    with pytest.raises(DataError, match=rf"{path}: the record at byte {offset} is no clip of {stft.nbytes + 2} bytes"):
        read_clip(path, offset, stft.nbytes + 2)
    with pytest.raises(DataError, match="the record at byte 0 is no clip"):
        read_clip(path, 0, 14)
