"""Scores of tracks against museval itself, blank output, baselines, and whole evaluations on small corpora."""

import dataclasses
import functools
import json
import os
import re
import resource
import shutil
from pathlib import Path

import museval
import numpy as np
import pytest
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.errors import AudioError, WriteError
from data_pipeline.synthetic.songs import synthesize
from data_pipeline.tracks import Folders, Musdb18, Musdb18HQ, find_tracks
from data_pipeline.workers import worker_pool
from jaxpu.cli.__main__ import main
from jaxpu.config import Config, PatchCNNConfig, SupervisedConfig
from jaxpu.core.network import TrainedModel
from jaxpu.core.step import init_state, separation_variables
from jaxpu.evaluation import workers
from jaxpu.evaluation.baselines import baseline_targets, fixed_mask_sums, oracle_masks, solve_fixed_mask, track_stft
from jaxpu.evaluation.evaluate import EvaluationError, EvaluationOptions, evaluate, evaluate_separator, format_table
from jaxpu.evaluation.scoring import score_track

RATE = 8000
PATCH = PatchSpec(sample_rate=RATE, clip_samples=4000, n_fft=512, win_length=512, hop_length=128, window="hann")
DATA = DataConfig(patch=PATCH)
HERE = EvaluationOptions(num_workers=1, progress=False)
"""In this process."""

MODEL_ALONE = dataclasses.replace(HERE, baselines=False)


def noise(seed, seconds=4.5, channels=2):
    return np.random.default_rng(seed).standard_normal((channels, round(seconds * RATE)))


def pair(target, accompaniment):
    return {"target": target, "accompaniment": accompaniment}


def musevals(reference, estimate, **options):
    """The scores of museval by metric: (sources, frames)."""
    stacked = [np.stack([signals["target"].T, signals["accompaniment"].T]) for signals in (reference, estimate)]
    return dict(zip(("SDR", "ISR", "SIR", "SAR"), museval.evaluate(*stacked, win=RATE, hop=RATE, **options), strict=True))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate") / "corpus"
    return Musdb18HQ(synthesize(root, num_train=2, num_test=2, seconds=4.0, sample_rate=RATE, num_workers=1, progress=False))


def halve(waveform, sample_rate):
    return 0.5 * waveform


def blank(waveform, sample_rate):
    return np.zeros_like(waveform)


def test_sdr_sir_isr_and_sar_are_musevals():
    reference = pair(noise(0, 2.5), noise(1, 2.5))
    mixture = reference["target"] + reference["accompaniment"]
    estimate = pair(0.8 * reference["target"] + 0.2 * mixture + 0.1 * noise(2, 2.5), 0.9 * reference["accompaniment"])
    theirs = musevals(reference, estimate)
    ours = score_track(reference, estimate, RATE, full=True)
    assert ours.num_frames == 2
    for index, source in enumerate(("target", "accompaniment")):
        for metric in ("SDR", "ISR", "SIR", "SAR"):
            np.testing.assert_allclose(ours.museval[source][metric], theirs[metric][index], atol=1e-6)
    quick = score_track(reference, estimate, RATE)
    np.testing.assert_array_equal(quick.museval["target"]["SDR"], ours.museval["target"]["SDR"])
    assert np.isnan(quick.museval["target"]["SIR"]).all()


def test_a_frame_that_museval_leaves_out_is_counted_and_still_scores():
    reference = pair(noise(3), noise(4))
    estimate = pair(reference["target"] + 0.1 * noise(5), reference["accompaniment"] - 0.1 * noise(5))
    estimate["target"][:, RATE : 2 * RATE] = 0  # blank output in the second frame
    reference["accompaniment"][:, 2 * RATE : 3 * RATE] = 0  # no accompaniment in the third
    theirs = musevals(reference, estimate)["SDR"][0]
    scores = score_track(reference, estimate, RATE)
    np.testing.assert_allclose(scores.museval["target"]["SDR"], theirs)
    np.testing.assert_array_equal(np.isnan(theirs), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(scores.sdr["target"]), [False, False, True, False])
    assert scores.sdr["target"][1] == pytest.approx(0.0, abs=1e-9)
    assert (scores.num_frames, scores.excluded_frames, scores.excluded_by_estimate) == (4, 2, 1)
    assert scores.blank_rate == 0.25


def test_blank_output_scores():
    reference = pair(noise(6), noise(7))
    scores = score_track(
        reference, pair(0 * reference["target"], reference["target"] + reference["accompaniment"]), RATE, full=True
    )
    assert scores.si_sdr == -100
    assert scores.si_sdr_improvement < -90
    assert (scores.kept_energy, scores.blank_rate) == (0, 1)
    assert scores.excluded_by_estimate == scores.excluded_frames == scores.num_frames == 4
    assert np.isnan(scores.median("target"))
    assert scores.median_sdr_with_blank("target") == pytest.approx(0.0, abs=1e-9)
    assert json.loads(scores.to_museval_json("song"))["targets"][0]["name"] == "vocals"


def test_kept_energy_blank_rate_and_improvement_have_known_values():
    target, accompaniment = noise(8, 4.0, 1), noise(9, 4.0, 1)
    target[:, :RATE] *= 1e-4  # not active
    estimate = 0.5 * target
    estimate[:, RATE : 2 * RATE] *= 0.019  # under -40 dB of the target
    scores = score_track(pair(target, accompaniment), pair(estimate, accompaniment), RATE)
    assert scores.blank_rate == pytest.approx(1 / 3)
    assert scores.kept_energy == pytest.approx(np.sum(estimate**2) / np.sum(target**2))
    doing_nothing = score_track(pair(target, accompaniment), pair(target + accompaniment, target + accompaniment), RATE)
    assert doing_nothing.si_sdr_improvement == 0
    assert scores.si_sdr_improvement == pytest.approx(scores.si_sdr - doing_nothing.si_sdr)


def test_mono_in_two_channels_scores_as_mono():
    # museval's equations are singular there, and under NumPy 2 it raises AttributeError while it handles that.
    mono = pair(noise(10, 2.5, 1), noise(11, 2.5, 1)), pair(noise(10, 2.5, 1) + 0.1 * noise(12, 2.5, 1), 0.7 * noise(11, 2.5, 1))
    single = score_track(*mono, RATE, full=True)
    doubled = score_track(*({name: np.repeat(s, 2, axis=0) for name, s in signals.items()} for signals in mono), RATE, full=True)
    for metric in ("SDR", "SIR", "ISR", "SAR"):
        np.testing.assert_allclose(doubled.museval["target"][metric], single.museval["target"][metric])
        assert np.isfinite(doubled.median("target", metric))


def test_what_cannot_be_scored_is_refused_by_name():
    sound = noise(13)
    with pytest.raises(ValueError, match="reference of the target is silent"):
        score_track(pair(0 * sound, sound), pair(sound, sound), RATE)
    with pytest.raises(ValueError, match=r"estimate of the accompaniment has shape \(2, 5\)"):
        score_track(pair(sound, sound), pair(sound, sound[:, :5]), RATE)
    with pytest.raises(ValueError, match="estimate of the target has samples that are NaN"):
        score_track(pair(sound, sound), pair(sound * np.nan, sound), RATE)


def test_a_recording_shorter_than_a_frame_is_one_frame():
    reference = pair(noise(14, 0.3), noise(15, 0.3))
    scores = score_track(reference, pair(reference["target"] + noise(16, 0.3), noise(17, 0.3)), RATE)
    assert scores.num_frames == 1
    assert np.isfinite(scores.median("target"))


def test_oracle_masks_have_known_values():
    target, accompaniment = np.array([3.0, 1j, 0.0, 2.0]), np.array([4.0, 0.0, 0.0, -1.0])
    masks = oracle_masks(target, accompaniment)
    np.testing.assert_allclose(masks["oracle ratio mask"], [9 / 25, 1, 0, 4 / 5])
    np.testing.assert_array_equal(masks["oracle binary mask"], [0, 1, 0, 1])


def test_the_fixed_mask_is_the_best_gain_per_frequency():
    rng = np.random.default_rng(18)
    mixture = rng.standard_normal((50, 4)) + 1j * rng.standard_normal((50, 4))
    mixture[:, 3] = 0
    mask = solve_fixed_mask([fixed_mask_sums(mixture * np.array([0.2, 1.0, -1.0, 0.0]), mixture)])
    np.testing.assert_allclose(mask, [0.2, 1, 0, 0])
    with pytest.raises(ValueError, match="at least one pair"):
        solve_fixed_mask([])


@pytest.mark.parametrize("rate", [RATE, 11_025, 6000])
def test_baselines_have_the_length_of_the_mixture_at_any_rate(rate):
    time = np.arange(rate) / rate
    target, accompaniment = np.sin(2 * np.pi * 400 * time)[None], np.sin(2 * np.pi * 1100 * time)[None]
    estimates = baseline_targets(pair(target, accompaniment), target + accompaniment, rate, PATCH, np.ones(PATCH.bins))
    np.testing.assert_array_equal(estimates["mixture"], target + accompaniment)
    middle = slice(rate // 4, -rate // 4)
    np.testing.assert_allclose(estimates["fixed mask"][:, middle], (target + accompaniment)[:, middle], atol=2e-3)
    np.testing.assert_allclose(estimates["oracle ratio mask"][:, middle], target[:, middle], atol=0.02)
    assert {estimate.shape for estimate in estimates.values()} == {target.shape}


def test_above_the_band_oracle_masks_work_as_a_model_does():
    rate = 2 * RATE
    time = np.arange(2 * rate) / rate
    low, high = np.sin(2 * np.pi * 0.45 * RATE * time)[None], np.sin(2 * np.pi * 0.8 * RATE * time)[None]
    sounds = np.where(time < 1, 1.0, 0.0)
    target, accompaniment = sounds * (low + high), (1 - sounds) * (low + high)
    estimates = baseline_targets(pair(target, accompaniment), target + accompaniment, rate, PATCH, None)
    steady = slice(rate // 4, 3 * rate // 4)
    for name in ("oracle ratio mask", "oracle binary mask"):
        np.testing.assert_allclose(estimates[name][:, steady], target[:, steady], atol=0.02)
        np.testing.assert_allclose(estimates[name][:, rate:][:, steady], 0, atol=0.02)


def test_tables_say_what_happens_above_the_band(tmp_path):
    root = synthesize(
        tmp_path / "corpus", num_train=0, num_test=1, seconds=4.0, sample_rate=2 * RATE, num_workers=1, progress=False
    )
    for info, said in (({"step": 1, "uses_stems": []}, True), (None, False)):
        table = evaluate_separator(halve, DATA, Musdb18HQ(root), tmp_path / "scores", MODEL_ALONE, info=info)
        assert (f"Above {RATE / 2000:g} kHz" in format_table(table)) == said
        assert max(map(len, format_table(table).splitlines())) <= 130
        assert json.loads((tmp_path / "scores" / "scores.json").read_text())["band_above"].startswith("Above" if said else "")


def test_oracle_masks_are_as_good_at_the_end_as_before():
    patch = dataclasses.replace(PATCH, hop_length=PATCH.n_fft // 2)
    for length in range(RATE, RATE + patch.hop_length, 37):
        target, accompaniment = (noise(seed, 2.0)[:, :length] for seed in (1, 2))
        estimates = baseline_targets(pair(target, accompaniment), target + accompaniment, RATE, patch, None)
        errors = np.mean((estimates["oracle ratio mask"] - target) ** 2, axis=0)
        assert errors[-patch.hop_length :].mean() < 2 * errors.mean(), length


def test_oracle_masks_use_the_downmix_as_a_model_of_their_patches_does():
    target, accompaniment = noise(1), noise(2, channels=1) * np.array([[1.0], [-1.0]])
    errors = {}
    for stereo in (False, True):
        patch = dataclasses.replace(PATCH, stereo=stereo)
        estimates = baseline_targets(pair(target, accompaniment), target + accompaniment, RATE, patch, None)
        errors[stereo] = np.mean((estimates["oracle ratio mask"] - target) ** 2) / np.mean(accompaniment**2)
    # The accompaniment is not in the mean of the channels: there the mask keeps all of it.
    assert errors[False] > 0.98
    assert errors[True] < 0.5


def test_the_stft_of_the_masks_is_the_models():
    import jax.numpy as jnp

    from jaxpu.core.stft import stft

    signal = noise(19, 1.0, 1)[0, : 60 * PATCH.hop_length].astype(np.float32)
    np.testing.assert_allclose(track_stft(signal, RATE, PATCH), stft(jnp.asarray(signal), PATCH), atol=1e-3)


@pytest.mark.slow
def test_a_model_is_evaluated_beside_the_baselines(corpus, tmp_path):
    config = Config(data=DATA, model=PatchCNNConfig(channels=2, blocks=0), objective=SupervisedConfig())
    info = {"step": 0, "select_by": "last", "uses_stems": ["supervised training"]}
    model = TrainedModel(config, separation_variables(config, init_state(config)), info)
    table = evaluate(model, corpus, tmp_path, EvaluationOptions(num_workers=2, progress=False))

    assert [row.method for row in table.rows] == ["model", "mixture", "fixed mask", "oracle ratio mask", "oracle binary mask"]
    improvement = {row.method: row.scores["si_sdr_improvement_mean"] for row in table.rows}
    assert improvement["mixture"] == 0
    assert improvement["oracle ratio mask"] > improvement["oracle binary mask"] - 0.5 > 5
    assert all(row.num_tracks == 2 for row in table.rows)

    text = format_table(table)
    assert "oracle ratio mask" in text
    assert "selected by last. Use of stems: supervised training." in text
    assert max(map(len, text.splitlines())) <= 130

    document = json.loads((tmp_path / "scores.json").read_text())
    assert list(document["methods"]["model"]["tracks"]) == ["synthetic_test_000", "synthetic_test_001"]
    assert document["methods"]["mixture"]["summary"]["si_sdr_improvement"] == 0

    store = museval.EvalStore()
    store.add_eval_dir(tmp_path / "museval" / "oracle_ratio_mask")
    theirs = store.agg_frames_tracks_scores()
    for source, name in (("target", "vocals"), ("accompaniment", "accompaniment")):
        assert theirs[name, "SDR"] == pytest.approx(table.row("oracle ratio mask").scores[f"sdr_{source}"], abs=1e-4)
    assert not list(tmp_path.rglob(".*"))


def test_worker_processes_import_no_jax(corpus):
    (track,) = (
        track for track in find_tracks(corpus, DATA.target, validation_share=0.0, seed=0) if track.name == "synthetic_test_000"
    )
    score = functools.partial(
        workers.score_methods, target=DATA.target, patch=PATCH, with_baselines=False, fixed_mask=None, full=False
    )
    with worker_pool(1) as pool:
        scores = pool.submit(score, (track, 0.5 * track.mixture.read())).result()
        assert scores.scores["model"].si_sdr_improvement == pytest.approx(0, abs=1e-3)
        loaded = pool.submit(eval, "set(__import__('sys').modules)").result()
    assert "numpy" in loaded
    assert not loaded & {"jax", "jaxlib", "flax", "tensorflow"}


def test_blank_output_is_evaluated(corpus, tmp_path):
    table = evaluate_separator(blank, DATA, corpus, tmp_path, MODEL_ALONE)
    scores = table.row("model").scores
    assert (scores["kept_energy"], scores["blank_rate"], scores["excluded_share"], scores["si_sdr"]) == (0, 1, 1, -100)
    assert scores["sdr_target_with_blank"] == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(scores["sdr_target"])
    assert "100%" in format_table(table)
    assert json.loads((tmp_path / "scores.json").read_text())["methods"]["model"]["summary"]["sdr_target"] is None


def test_a_silent_target_is_named_and_left_out(corpus, tmp_path):
    root = shutil.copytree(corpus.root, tmp_path / "corpus")
    song = root / "test" / "synthetic_test_000"
    stems = {name: soundfile.read(song / f"{name}.wav")[0] for name in ("mixture", "vocals")}
    soundfile.write(song / "mixture.wav", stems["mixture"] - stems["vocals"], RATE)
    soundfile.write(song / "vocals.wav", 0 * stems["vocals"], RATE)
    table = evaluate_separator(halve, DATA, Musdb18HQ(root), tmp_path / "out", HERE)
    assert table.excluded_tracks == {"synthetic_test_000": "the target is silent throughout"}
    assert list(table.tracks["model"]) == ["synthetic_test_001"]
    assert "Excluded: synthetic_test_000: the target is silent throughout" in format_table(table)
    shutil.rmtree(root / "test" / "synthetic_test_001")
    with pytest.raises(EvaluationError, match=r"No track of the split 'test' .*synthetic_test_000: the target is silent"):
        evaluate_separator(halve, DATA, Musdb18HQ(root), tmp_path / "none", MODEL_ALONE)


def test_a_song_whose_name_leaves_no_room_for_a_suffix_is_scored(corpus, tmp_path):
    root = shutil.copytree(corpus.root, tmp_path / "corpus")
    name = 84 * "\u6b4c"  # 252 bytes of 255.
    (root / "test" / "synthetic_test_000").rename(root / "test" / name)
    table = evaluate_separator(halve, DATA, Musdb18HQ(root), tmp_path / "out", MODEL_ALONE)
    assert set(table.tracks["model"]) == {"synthetic_test_001", name}
    names = sorted(path.name for path in (tmp_path / "out" / "museval" / "model" / "test").iterdir())
    assert names[0] == "synthetic_test_001.json"
    assert names[1].startswith(66 * "\u6b4c")


def test_the_page_of_an_earlier_evaluation_is_removed(corpus, tmp_path):
    page = tmp_path / "report.html"
    page.write_text("of somebody else")
    evaluate_separator(halve, DATA, corpus, tmp_path, MODEL_ALONE)
    assert page.exists()
    page.write_text("scores of another checkpoint")
    evaluate_separator(halve, DATA, corpus, tmp_path, MODEL_ALONE)
    assert not page.exists()


def test_several_stems_as_target(corpus, tmp_path):
    data = DataConfig(patch=PATCH, target=("drums", "bass"))
    table = evaluate_separator(halve, data, corpus, tmp_path, MODEL_ALONE)
    folder = corpus.root / "test" / "synthetic_test_000"
    target = sum(soundfile.read(folder / f"{name}.wav", always_2d=True)[0].T for name in data.target)
    mixture = soundfile.read(folder / "mixture.wav", always_2d=True)[0].T
    expected = score_track(pair(target, mixture - target), pair(0.5 * mixture, 0.5 * mixture), RATE)
    assert table.tracks["model"]["synthetic_test_000"].si_sdr == pytest.approx(expected.si_sdr, abs=1e-3)
    written = json.loads((tmp_path / "museval" / "model" / "test" / "synthetic_test_000.json").read_text())
    assert [entry["name"] for entry in written["targets"]] == ["drums-bass", "accompaniment"]


def test_the_stempeg_file_is_evaluated_in_stereo(tmp_path):
    import stempeg

    path = Path(stempeg.example_stem_path())
    (tmp_path / "musdb" / "test").mkdir(parents=True)
    shutil.copy(path, tmp_path / "musdb" / "test")
    table = evaluate_separator(halve, DATA, Musdb18(tmp_path / "musdb"), tmp_path / "out", HERE)
    (name,) = table.tracks["model"]
    assert f"{name}.stem.mp4" == path.name
    assert [row.method for row in table.rows] == [
        "model",
        "mixture",
        "oracle ratio mask",
        "oracle binary mask",
    ]  # nothing to fit on
    assert table.row("oracle ratio mask").scores["si_sdr_improvement"] > 3


def spoilt(corpus, root, signal):
    """A copy of the corpus whose first test song has a sample that is NaN: its header is fine."""
    shutil.copytree(corpus.root, root)
    path = root / "test" / "synthetic_test_000" / f"{signal}.wav"
    samples, rate = soundfile.read(path)
    samples[len(samples) // 2] = np.nan
    soundfile.write(path, samples, rate, "FLOAT")
    return Musdb18HQ(root)


@pytest.mark.parametrize("signal", ["mixture", "drums"])  # The first is read to be separated, the second to be scored.
def test_a_song_that_fails_is_named_and_the_others_keep_their_scores(corpus, tmp_path, signal):
    source = spoilt(corpus, tmp_path / "corpus", signal)
    table = evaluate_separator(halve, DATA, source, tmp_path / "out", HERE)
    assert list(table.tracks["model"]) == ["synthetic_test_001"]
    assert f"{signal}.wav: has samples that are NaN" in table.failed_tracks["synthetic_test_000"]
    assert table.excluded_tracks == {}
    document = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(document["methods"]["model"]["tracks"]) == ["synthetic_test_001"]
    assert document["failed_tracks"] == list(document["excluded_tracks"]) == ["synthetic_test_000"]
    assert "Failed: synthetic_test_000: " in format_table(table)


def test_a_separator_that_fails_on_one_song_is_named_with_its_error(corpus, tmp_path):
    calls = []

    def fails_once(waveform, sample_rate):
        calls.append(None)
        if len(calls) == 1:
            raise MemoryError("too long")
        return 0.5 * waveform

    table = evaluate_separator(fails_once, DATA, corpus, tmp_path, MODEL_ALONE)
    assert table.failed_tracks == {"synthetic_test_000": "MemoryError: too long"}
    assert len(calls) == 2


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_bug_in_a_worker_has_its_place(num_workers):
    found = workers.in_workers(solve_fixed_mask, ["no sums"] * 2, num_workers=num_workers, num_jobs=2, title="", progress=False)
    results = [result for _, result in found]
    assert len(results) == 2
    for result in results:
        assert re.search(r"Error: .* \(jaxpu.evaluation.baselines, line \d+\). This is a bug in jaxpu", result.reason)


def test_the_command_fails_with_the_scores_of_the_others(corpus, tmp_path, capsys):
    source = spoilt(corpus, tmp_path / "corpus", "mixture")
    model = Path(__file__).parents[1] / "data" / "earlier_model.zip"
    assert main(["evaluate", str(model), str(source.root), "-o", str(tmp_path / "out"), "--workers", "1"]) == 1
    assert "Failed: synthetic_test_000: " in capsys.readouterr().out
    assert list(json.loads((tmp_path / "out" / "scores.json").read_text())["methods"]["model"]["tracks"]) == [
        "synthetic_test_001"
    ]


def test_headers_and_the_output_folder_are_checked_before_anything_is_scored(corpus, tmp_path):
    def never(waveform, sample_rate):
        raise AssertionError("a song was separated")

    root = shutil.copytree(corpus.root, tmp_path / "corpus")
    (root / "test" / "synthetic_test_001" / "vocals.wav").write_bytes(b"no audio")
    path = root / "test" / "synthetic_test_000" / "drums.wav"
    soundfile.write(path, soundfile.read(path)[0][:-1], RATE)
    with pytest.raises(AudioError, match=r"Songs that cannot be read:(.|\n)*drums.wav(.|\n)*synthetic_test_001/vocals.wav"):
        evaluate_separator(never, DATA, Musdb18HQ(root), tmp_path / "out", HERE)
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=rf"{tmp_path}/file/out: cannot be written"):
        evaluate_separator(never, DATA, corpus, tmp_path / "file" / "out", HERE)


def test_a_disk_that_is_full_at_the_end_does_not_lose_the_scores(corpus, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limits_files(waveform, sample_rate):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        return 0.5 * waveform

    try:
        with pytest.raises(
            WriteError, match=r"scores.json: cannot be written \(File too large\)(.|\n)*SI-SDRi(.|\n)*model +-?\d"
        ):
            evaluate_separator(limits_files, DATA, corpus, tmp_path, MODEL_ALONE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_the_excerpts_does_not_hide_the_scores(corpus, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    calls = []

    def limits_files(waveform, sample_rate):
        calls.append(1)
        if len(calls) > 2:  # The songs are scored; now their excerpts are made.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        return 0.5 * waveform

    options = dataclasses.replace(MODEL_ALONE, num_excerpts=1)
    try:
        with pytest.raises(WriteError, match=rf"The scores are in {tmp_path}/scores.json:(.|\n)*SI-SDRi(.|\n)*model +-?\d"):
            evaluate_separator(limits_files, DATA, corpus, tmp_path, options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert json.loads((tmp_path / "scores.json").read_text())["methods"]["model"]["num_tracks"] == 2


def test_a_worker_that_dies_costs_its_jobs_alone():
    results = list(workers.in_workers(os._exit, [1, 1, 1], num_workers=2, num_jobs=3, title="", progress=False))
    assert [job for job, _ in results] == [1, 1, 1]
    assert all("a worker process died" in result.reason for _, result in results)


def test_stems_that_do_not_sum_to_the_mixture_are_said(corpus, tmp_path):
    root = shutil.copytree(corpus.root, tmp_path / "corpus")
    path = root / "test" / "synthetic_test_000" / "mixture.wav"
    soundfile.write(path, 0.5 * soundfile.read(path)[0], RATE, "FLOAT")
    table = evaluate_separator(halve, DATA, Musdb18HQ(root), tmp_path / "out", MODEL_ALONE)
    assert table.residuals["synthetic_test_000"].db == pytest.approx(0.0, abs=0.1)
    assert table.residuals["synthetic_test_001"].db < -40
    text = format_table(table)
    assert "the stems of 1 of 2 songs do not sum to the mixture" in text
    assert "  synthetic_test_000: 0.0 dB" in text.replace("-0.0", "0.0")
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["residual_db"].keys() == table.residuals.keys()


def test_impossible_evaluations_are_refused(corpus, tmp_path):
    with pytest.raises(EvaluationError, match="these folders have no stems"):
        evaluate_separator(halve, DATA, Folders(tmp_path, tmp_path), tmp_path)
    shutil.copytree(corpus.root / "train", tmp_path / "corpus" / "train")
    with pytest.raises(EvaluationError, match=r"no tracks in the split 'test'; it has train, validation"):
        evaluate_separator(halve, DATA, Musdb18HQ(tmp_path / "corpus"), tmp_path)
    with pytest.raises(EvaluationError, match=r"synthetic_test_000, model: The estimate of the target has samples that are NaN"):
        evaluate_separator(lambda waveform, rate: waveform * np.nan, DATA, corpus, tmp_path, MODEL_ALONE)
