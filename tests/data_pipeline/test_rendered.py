"""Rendered songs: real fluidsynth, flite, espeak-ng and ffmpeg, with a small sound font."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.config import STEMS
from data_pipeline.errors import CorpusError
from data_pipeline.rendered import effects, players, score, singer, songs, speech
from data_pipeline.rendered.fluidsynth import Note, Part, play
from data_pipeline.rendered.songs import render_song
from data_pipeline.rendered.style import FAMILIES, STYLES
from data_pipeline.synthetic.songs import synthesize

RATE = 44_100
SMALL_FONT = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")
"""timgm6mb-soundfont of Debian, which `make test` installs."""

SLT = speech.Speaker("flite", "slt", high=True)


def level_db(signal):
    return 10 * np.log10(np.mean(np.square(signal)) + 1e-20)


@pytest.fixture(scope="module")
def song():
    return render_song(3, "train", 1, seconds=8.0, sound_fonts=(SMALL_FONT,))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(song):
    again = render_song(3, "train", 1, seconds=8.0, sound_fonts=(SMALL_FONT,))
    assert {name: signal.tobytes() for name, signal in song.items()} == {name: signal.tobytes() for name, signal in again.items()}


def test_stems_are_those_of_musdb18_in_stereo_and_do_not_clip(song):
    assert set(song) == set(STEMS)
    for signal in song.values():
        assert (signal.shape, signal.dtype) == ((2, 8 * RATE), np.int16)
    mixture = np.sum(list(song.values()), axis=0, dtype=np.int32)
    assert 3000 < np.abs(mixture).max() <= 32767


@pytest.mark.slow
def test_families_sum_to_the_same_other(song):
    families = render_song(3, "train", 1, seconds=8.0, sound_fonts=(SMALL_FONT,), families=True)
    assert "other" not in families
    assert set(families) > {"drums", "bass", "vocals"}
    for name in ("drums", "bass", "vocals"):
        np.testing.assert_array_equal(families[name], song[name])
    rest = np.sum([signal for name, signal in families.items() if name not in STEMS], axis=0, dtype=np.int32)
    np.testing.assert_allclose(rest, song["other"], atol=len(families))


@pytest.mark.slow
def test_a_corpus_is_written_and_another_font_is_refused(tmp_path):
    arguments = {"num_train": 1, "num_test": 0, "seconds": 4.0, "renderer": "fluidsynth", "num_workers": 1, "progress": False}
    root = synthesize(tmp_path / "corpus", **arguments, sound_fonts=(SMALL_FONT,))
    folder = root / "train" / "rendered_train_000"
    samples = {path.stem: soundfile.read(path, dtype="int16")[0].astype(int) for path in folder.iterdir()}
    np.testing.assert_array_equal(sum(samples[name] for name in STEMS), samples["mixture"])
    copy = tmp_path / "copy.sf2"
    shutil.copy(SMALL_FONT, copy)
    with pytest.raises(CorpusError, match="asked for"):
        synthesize(root, **arguments, sound_fonts=(copy,))


@pytest.mark.parametrize("kept", [None, 12, -1])
def test_what_is_no_whole_sound_font_is_refused(tmp_path, kept):
    font = tmp_path / "font.sf2"
    font.write_bytes(b"RIFFxxxxWAVE" if kept is None else SMALL_FONT.read_bytes()[:kept])
    with pytest.raises(CorpusError, match=r"font\.sf2: is no sound font, or not a whole one"):
        synthesize(tmp_path / "corpus", renderer="fluidsynth", sound_fonts=(font,))
    assert not (tmp_path / "corpus").exists()


def test_a_sound_font_that_cannot_be_played_is_an_error(tmp_path):
    font = tmp_path / "font.sf2"
    font.write_bytes(SMALL_FONT.read_bytes()[:12] + bytes(SMALL_FONT.stat().st_size))
    with pytest.raises(CorpusError, match=r"fluidsynth cannot play with .*font\.sf2: fluidsynth: error: "):
        play(Part((Note(0.0, 0.5, 69, 100),), program=73), RATE, RATE, font)


def test_what_is_missing_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError, match=r"the program fluidsynth, the program flite, .*font\.sf2\. Install them"):
        synthesize(tmp_path / "corpus", renderer="fluidsynth", sound_fonts=(tmp_path / "font.sf2",))
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": True}, "families and sound_fonts need the renderer fluidsynth; this is waveforms"),
        ({"sound_fonts": (SMALL_FONT,)}, "families and sound_fonts need the renderer fluidsynth; this is waveforms"),
        ({"renderer": "fluidsynth", "sample_rate": 192_000}, "sample_rate is 192000; it must lie between 8000 and 96000 Hz"),
        ({"renderer": "timidity"}, "renderer is 'timidity'; it must be one of waveforms, fluidsynth"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(CorpusError, match=message):
        synthesize(tmp_path / "corpus", **arguments)


def test_a_note_sounds_when_and_where_it_is_written():
    signal = play(Part((Note(1.0, 0.5, 69, 100),), program=73, pan=1.0, reverb=0.0), 2 * RATE, RATE, SMALL_FONT)
    left, right = signal
    assert level_db(signal[:, : int(0.98 * RATE)]) < level_db(signal) - 40
    assert level_db(right) > level_db(left) + 10
    sounding = right[int(1.1 * RATE) : int(1.4 * RATE)]
    strongest_hz = np.argmax(np.abs(np.fft.rfft(sounding * np.hanning(len(sounding))))) * RATE / len(sounding)
    assert any(abs(strongest_hz - octave) < 8 for octave in (440, 880))


@pytest.mark.parametrize("name", STYLES)
def test_players_play_in_their_sections_alone(name):
    rng = np.random.default_rng(5)
    style, families = STYLES[name], list(FAMILIES)
    written = score.draw_score(style, len(families), 60.0, rng)
    bar_s = written.beats_per_bar * written.beat_s

    def sections_of(notes):
        bars = [int((note.onset_s + 0.06) / bar_s) for note in notes]
        ends = np.array([section.first_bar + section.num_bars for section in written.sections])
        numbers = {int(np.searchsorted(ends, bar, "right")) for bar in bars}
        return {written.sections[number].first_bar for number in numbers if number < len(ends)}

    for playing, notes in (
        ("drums", players.play_drums(written, style, rng)),
        ("bass", players.play_bass(written, name, rng)),
        ("vocals", score.melody(written, 50, 70, 0.9, rng)),
        *((number, players.play_part(written, number, family, rng)) for number, family in enumerate(families)),
    ):
        allowed = {section.first_bar for section, _ in written.bars(playing)}
        assert sections_of(notes) <= allowed, playing
        assert all(1 <= getattr(note, "velocity", 1) <= 127 and 0 <= note.pitch <= 127 for note in notes), playing


def test_a_melody_stays_in_the_singers_range():
    rng = np.random.default_rng(1)
    written = score.draw_score(STYLES["pop"], 2, 120.0, rng)
    notes = score.melody(written, 52, 67, 0.8, rng)
    assert len(notes) > 20
    assert {note.pitch for note in notes} <= set(range(52, 68))
    ends = [note.onset_s + note.length_s for note in notes]
    assert all(end <= note.onset_s + 1e-6 for end, note in zip(ends, notes[1:], strict=False))


@pytest.mark.parametrize("speaker", [SLT, speech.Speaker("espeak-ng", "de+f3", high=True)])
def test_voices_reach_above_the_band_of_their_programs(speaker):
    word = speech.speak(speaker, "stars", 9.0)
    hz = np.linspace(0, speech.RATE / 2, word.envelope.shape[1])
    mean = word.envelope.mean(0)
    below, above = (mean[(hz > low) & (hz < high)].mean() for low, high in ((6000, 7000), (12_000, 14_000)))
    assert -25 < 10 * np.log10(above / below) < 0
    assert (word.aperiodicity[:, hz > 11_500] > 0.99).all()


@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_a_sung_word_has_the_pitch_and_the_place_of_its_note(rate):
    rng = np.random.default_rng(0)
    delivery = singer.Delivery(False, (1.0, 1.0), 0.0, 0.0, (0.0, 5.0), 0.03, 0.0, 0.0, 9.0)
    notes = [score.MelodyNote(1.0, 1.0, 64, True, 0)]
    voice = singer.sing(notes, ["love"], SLT, delivery, 3 * rate, rate, rng)
    assert not voice[: int(0.9 * rate)].any()
    assert not voice[int(2.2 * rate) :].any()
    vowel = voice[int(1.35 * rate) : int(1.65 * rate)].astype(float)
    correlation = np.correlate(vowel, vowel, "full")[len(vowel) - 1 :]
    lags = np.arange(rate // 500, rate // 150)
    pitch_hz = rate / lags[np.argmax(correlation[lags])]
    assert abs(12 * np.log2(pitch_hz / (440 * 2 ** ((64 - 69) / 12)))) < 0.3


def test_a_held_word_keeps_its_ends():
    frames = singer._stretched(80, 400)
    assert len(frames) == 400
    np.testing.assert_array_equal(frames[:22], np.arange(22))
    np.testing.assert_array_equal(frames[-18:], np.arange(62, 80))
    assert np.all(np.diff(frames) >= 0)


@pytest.mark.parametrize("seed", range(4))
def test_the_limiter_keeps_every_sample_within_its_limit(seed):
    rng = np.random.default_rng(seed)
    mixture = (rng.standard_normal((2, RATE)) * rng.uniform(0.1, 2, RATE)).astype(np.float32)
    mixture[:, 5000] = 9.0
    gain = effects.limiter_gain(mixture, RATE, 0.9, 0.1)
    assert gain.shape == (RATE,)
    assert np.abs(gain * mixture).max() <= 0.9 * 1.0001
    assert gain.max() <= 1
    quiet = np.full((2, RATE), 0.1, np.float32)
    np.testing.assert_array_equal(effects.limiter_gain(quiet, RATE, 0.9, 0.1), 1)


@pytest.mark.parametrize("codec", ["mp3", "aac"])
def test_a_coded_signal_is_in_time(codec):
    rng = np.random.default_rng(2)
    edges = np.zeros(3 * RATE)
    edges[rng.integers(RATE // 2, 2 * RATE, 300)] = 1
    signal = np.tile(0.3 * (np.cumsum(edges) % 2 - 0.5), (2, 1)).astype(np.float32)
    heard = effects.coded(signal, RATE, codec, 192)
    assert heard.shape == signal.shape
    assert level_db(heard - signal) < level_db(signal) - 15


def test_stems_that_cancel_each_other_do_not_wrap_around():
    rng = np.random.default_rng(0)
    tone = np.tile(np.sin(np.arange(RATE) / 20), (2, 1)).astype(np.float32)
    stems = {"drums": 10 * tone, "bass": -9.9 * tone}
    for _ in range(4):
        for signal in songs._mastered(stems, RATE, rng).values():
            assert np.abs(signal).max() <= 1


def test_effects_say_what_ffmpeg_says():
    with pytest.raises(CorpusError, match=r"ffmpeg fails with status \d+.*nosuchfilter"):
        effects.apply(["nosuchfilter"], np.ones((2, 1000), np.float32), RATE)


@pytest.mark.slow
def test_every_chain_of_effects_is_known_to_ffmpeg():
    rng = np.random.default_rng(0)
    signal = (0.1 * rng.standard_normal((2, 4000))).astype(np.float32)
    chains = [effects.vocal_chain(rng) for _ in range(25)]
    chains += [effects.instrument_chain(family, driven, rng) for family in ("drums", "guitar") for driven in (False, True)] * 8
    for chain in chains:
        heard = effects.apply(chain, signal, RATE)
        assert heard.shape == signal.shape
        assert np.isfinite(heard).all()
        assert heard.any()
