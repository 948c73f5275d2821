"""Measure what each property of the renderer brings: train on songs that lack one of them, and score on real voices.

    python benchmarks/renderer_properties.py --songs NAME=CORPUS ... --work DIR [--without reverberation ...]

Songs without a property are otherwise the same: what it draws is drawn, and dropped.  With each kind of songs a smaller network
of `rendered_songs` is trained, once for each seed.  A CORPUS has the layout of MUSDB18-HQ; its test songs are scored.  The table
of all that --work holds goes to benchmarks/results/measured/renderer-properties.json.  A run that was killed resumes.
"""

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from tables import slug

from data_pipeline.files import write_text
from data_pipeline.prepare import prepare
from data_pipeline.rendered import effects, score, songs
from data_pipeline.rendered.fluidsynth import Part
from data_pipeline.rendered.programs import SOUND_FONT
from data_pipeline.rendered.style import STYLES
from data_pipeline.synthetic.songs import synthesize
from data_pipeline.tracks import Musdb18HQ
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.config import Config, UNetConfig
from jaxpu.config_files import load_config
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate
from jaxpu.training.loop import ASKED_TO_STOP, train

RESULTS = Path(__file__).resolve().parent / "results" / "measured" / "renderer-properties.json"
FONTS = (SOUND_FONT, SOUND_FONT.with_name("MuseScore_General_Full.sf2"))
NUM_SONGS, SECONDS, SEED = 60, 20.0, 11
NOTHING = "nothing"

Patches = Iterator[None]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", nargs="+", required=True, metavar="NAME=CORPUS")
    parser.add_argument("--work", type=Path, required=True, help="folder of songs, prepared data, runs and scores")
    parser.add_argument("--without", nargs="+", choices=[NOTHING, *WITHOUT], default=[NOTHING, *WITHOUT])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(args)
    corpora = dict(each.split("=", 1) for each in arguments.songs)
    for missing in arguments.without:
        for seed in arguments.seeds:
            scores = scores_of(missing, seed, corpora, arguments.work, arguments.steps)
            print(missing, seed, json.dumps(scores), flush=True)
    write_text(arguments.results, json.dumps(table(arguments.work, list(corpora), arguments.steps), indent=1) + "\n")


def scores_of(missing: str, seed: int, corpora: dict[str, str], work: Path, steps: int) -> dict[str, dict[str, list[float]]]:
    """Scores of songs by corpus, of a network that is trained on songs without a property."""
    folder = work / slug(missing)
    kept = folder / f"scores-{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    config = config_of(seed, steps)
    prepare_songs(missing, folder, config)
    run = folder / f"run-{seed}"
    if train(config, folder / "data", run)["stopped"] == ASKED_TO_STOP:
        sys.exit(f"{missing}, seed {seed}: {ASKED_TO_STOP}.")
    options = EvaluationOptions(num_workers=1, baselines=False, progress=False)
    scores = {}
    for name, corpus in corpora.items():
        found = evaluate(load_model(run), Musdb18HQ(Path(corpus)), folder / f"evaluation-{seed}-{slug(name)}", options)
        songs_scores = [each.to_json() for each in found.tracks["model"].values()]
        keys = ("si_sdr_improvement", "sdr_target")
        scores[name] = {key: [each[key] for each in songs_scores if each[key] is not None] for key in keys}
    write_text(kept, json.dumps(scores) + "\n")
    return scores


def prepare_songs(missing: str, folder: Path, config: Config) -> None:
    """Render and prepare the songs without a property; of the songs only their patches stay."""
    if (folder / "prepared").exists():
        return
    with contextlib.ExitStack() as stack:
        fonts = FONTS
        if missing == SECOND_FONT:
            fonts = FONTS[:1] * 2  # As many to draw from.
        elif missing != NOTHING:
            stack.enter_context(WITHOUT[missing]())
        synthesize(
            folder / "songs", num_train=NUM_SONGS, num_test=0, seconds=SECONDS, seed=SEED, renderer="fluidsynth",
            sound_fonts=fonts, num_workers=1, progress=False,
        )  # fmt: skip
    prepare(Musdb18HQ(folder / "songs"), config.data, folder / "data", num_workers=1, progress=False)
    write_text(folder / "prepared", "")
    shutil.rmtree(folder / "songs")


def config_of(seed: int, steps: int) -> Config:
    """`rendered_songs` with fewer channels, steps and clips."""
    config = load_config("rendered_songs")
    assert isinstance(config.model, UNetConfig)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, channels=(16, 32)),
        train=dataclasses.replace(config.train, seed=seed, num_steps=steps, batch_size=6),
    )


def table(work: Path, names: list[str], steps: int) -> dict[str, Any]:
    """The table of all that was measured: songs that lack nothing, and the differences of others from them, the worst first."""
    found = {
        missing: [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / slug(missing)).glob("scores-*.json"))]
        for missing in (NOTHING, *WITHOUT)
    }
    measures = [(name, key) for name in names for key in KEYS]
    whole = [[middle(run[name][key], key) for run in found[NOTHING]] for name, key in measures]
    first = [f"{np.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})" for values in whole]
    rows = []
    for missing in WITHOUT:
        if runs := found[missing]:
            means = [np.mean([middle(run[name][key], key) for run in runs]) for name, key in measures]
            differences = [float(mean - np.mean(values)) for mean, values in zip(means, whole, strict=True)]
            rows.append((sum(differences), [missing, str(len(runs)), *(f"{each:+.1f}" for each in differences)]))
    return {
        "commands": ["python benchmarks/renderer_properties.py --songs NAME=CORPUS ... --work DIR"],
        "machine": (
            f"SI-SDR improvement: mean over songs. SDR of museval: median over songs. First row: mean and single seeds; others: "
            f"differences from it. {steps} steps of 6 clips; {NUM_SONGS} rendered songs of {SECONDS:g} s."
        ),
        "columns": ["songs lack", "seeds", *(f"{name}, {of}" for name in names for of in KEYS.values())],
        "rows": [[NOTHING, str(len(found[NOTHING])), *first], *(cells for _, cells in sorted(rows))],
    }


KEYS = {"si_sdr_improvement": "SI-SDR, dB", "sdr_target": "SDR, dB"}


def middle(values: list[float], key: str) -> float:
    """Mean over songs of SI-SDR improvement, median of SDR."""
    return float(np.mean(values) if key == "si_sdr_improvement" else np.median(values))


@contextlib.contextmanager
def without_reverberation() -> Patches:
    """No rooms, neither of the studio nor of fluidsynth."""
    reverberate = effects.reverberate

    def dry(signal: effects.Signal, *args: Any, **kwargs: Any) -> effects.Signal:
        reverberate(signal, *args, **kwargs)
        return signal

    with mock.patch.object(effects, "reverberate", dry), parts_replaced(lambda part: dataclasses.replace(part, reverb=0.0)):
        yield


@contextlib.contextmanager
def without_limiter() -> Patches:
    """One gain for the whole song."""
    limiter_gain = effects.limiter_gain

    def constant(*args: Any) -> np.ndarray:
        gain = limiter_gain(*args)
        return np.full_like(gain, gain.min())

    with mock.patch.object(effects, "limiter_gain", constant):
        yield


@contextlib.contextmanager
def without_coding() -> Patches:
    """Neither MP3 nor AAC."""
    with mock.patch.object(effects, "coded", lambda signal, *_: signal):
        yield


def without_filters(*names: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """No filters of ffmpeg with these names."""

    @contextlib.contextmanager
    def removed() -> Patches:
        apply = effects.apply

        def fewer(chain: list[str], *args: Any) -> effects.Signal:
            return apply([each for each in chain if each.split("=")[0] not in names] or ["anull"], *args)

        with mock.patch.object(effects, "apply", fewer):
            yield

    return removed


@contextlib.contextmanager
def without_stereo() -> Patches:
    """Every instrument and voice in the middle."""
    placed = effects.placed
    with (
        mock.patch.object(effects, "placed", lambda signal, pan: placed(signal, 0.5)),
        parts_replaced(lambda part: dataclasses.replace(part, pan=0.5)),
    ):
        yield


@contextlib.contextmanager
def without_live_playing() -> Patches:
    """Notes on the grid, as loud as each other, without vibrato and bends."""
    played_s = score.Score.played_s

    def on_grid(self: score.Score, beat: float, rng: np.random.Generator) -> float:
        played_s(self, beat, rng)
        return self.seconds(beat)

    def even(part: Part) -> Part:
        notes = tuple(dataclasses.replace(note, velocity=90, scoop=0.0) for note in part.notes)
        return dataclasses.replace(part, notes=notes, vibrato=0.0)

    with mock.patch.object(score.Score, "played_s", on_grid), parts_replaced(even):
        yield


@contextlib.contextmanager
def without_second_voices() -> Patches:
    """The lead voice alone, once: neither doubled, nor in harmony, nor with a choir."""
    draw, sing, choir = songs._Lead.draw, songs._Lead.sing, songs._choir
    waiting: list[songs._Lead] = []

    def drawn(*args: Any) -> songs._Lead:
        waiting[:] = [draw(*args)]
        return waiting[0]

    def first(self: songs._Lead, *args: Any) -> np.ndarray:
        sung = sing(self, *args)
        return sung if waiting and self is waiting.pop() else 0 * sung

    with (
        mock.patch.object(songs._Lead, "draw", drawn),
        mock.patch.object(songs._Lead, "sing", first),
        mock.patch.object(songs, "_choir", lambda *args: 0 * choir(*args)),
    ):
        yield


def delivery_with(**values: Any) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Every singer's delivery with these values."""

    @contextlib.contextmanager
    def replaced() -> Patches:
        draw = songs.draw_delivery
        with mock.patch.object(songs, "draw_delivery", lambda *args: dataclasses.replace(draw(*args), **values)):
            yield

    return replaced


def without_program(program: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """No voices of a program: other speakers in place of them."""

    @contextlib.contextmanager
    def other() -> Patches:
        draw = songs.draw_speaker

        def again(rng: np.random.Generator) -> Any:
            while (speaker := draw(rng)).program == program:
                pass
            return speaker

        with mock.patch.object(songs, "draw_speaker", again):
            yield

    return other


@contextlib.contextmanager
def without_words() -> Patches:
    """All notes are sung on "ah"."""
    draw = songs.draw_words
    with mock.patch.object(songs, "draw_words", lambda *args: [word and "ah" for word in draw(*args)]):
        yield


@contextlib.contextmanager
def without_styles() -> Patches:
    """All songs are pop."""
    draw = songs.draw_style

    def pop(rng: np.random.Generator) -> Any:
        draw(rng)
        return "pop", STYLES["pop"]

    with mock.patch.object(songs, "draw_style", pop):
        yield


@contextlib.contextmanager
def without_tempi() -> Patches:
    """All songs at 110 beats per minute; what follows from the number of their bars is drawn anew."""
    draw = songs.draw_style

    def steady(rng: np.random.Generator) -> Any:
        name, style = draw(rng)
        return name, dataclasses.replace(style, bpm=(110.0, 110.0))

    with mock.patch.object(songs, "draw_style", steady):
        yield


def scores_changed(change: Callable[[score.Score], score.Score]) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Songs with changed scores."""

    @contextlib.contextmanager
    def changed() -> Patches:
        draw = songs.draw_score
        with mock.patch.object(songs, "draw_score", lambda *args: change(draw(*args))):
            yield

    return changed


def in_c(drawn: score.Score) -> score.Score:
    """The same on C."""
    return dataclasses.replace(drawn, key=0)


def all_play(drawn: score.Score) -> score.Score:
    """Every instrument in every section, with the same energy."""
    sections = (
        dataclasses.replace(each, energy=0.7, drums=True, bass=True, parts=(True,) * len(each.parts)) for each in drawn.sections
    )
    return dataclasses.replace(drawn, sections=tuple(sections))


@contextlib.contextmanager
def without_levels() -> Patches:
    """Every stem at the middle of its levels."""
    middles = {name: (float(np.mean(limits)),) * 2 for name, limits in songs.LEVELS_DB.items()}
    with mock.patch.object(songs, "LEVELS_DB", middles):
        yield


@contextlib.contextmanager
def without_loudness() -> Patches:
    """Every song at the middle of the loudness."""
    with mock.patch.object(songs, "LOUDNESS_DB", (float(np.mean(songs.LOUDNESS_DB)),) * 2):
        yield


@contextlib.contextmanager
def parts_replaced(change: Callable[[Part], Part]) -> Patches:
    """Play changed parts."""
    play = songs.play
    with mock.patch.object(songs, "play", lambda part, *args: play(change(part), *args)):
        yield


SECOND_FONT = "a second sound font"
WITHOUT: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "reverberation": without_reverberation,
    "doubling, harmonies and choirs": without_second_voices,
    "equalisers": without_filters("equalizer", "treble"),
    "compressors": without_filters("acompressor"),
    "distortion": without_filters("volume", "asoftclip"),
    "modulation and echoes": without_filters("chorus", "aphaser", "tremolo", "flanger", "aecho"),
    "the limiter": without_limiter,
    "MP3 and AAC": without_coding,
    "stereo placement": without_stereo,
    "live playing": without_live_playing,
    "levels of stems": without_levels,
    "levels of songs": without_loudness,
    "tempi": without_tempi,
    "keys": scores_changed(in_c),
    "sections with fewer instruments": scores_changed(all_play),
    "styles other than pop": without_styles,
    SECOND_FONT: contextlib.nullcontext,
    "voices of espeak-ng": without_program("espeak-ng"),
    "voices of flite": without_program("flite"),
    "words": without_words,
    "vibrato, slides and drift of voices": delivery_with(vibrato=(0.0, 5.6), scoop=0.0, drift=0.0),
    "throat, breath and strain of voices": delivery_with(formants=(1.0, 1.0), breath=0.0, tilt_db=0.0),
    "speech": delivery_with(spoken=False),
}
"""Properties of the renderer, and what takes them away."""


if __name__ == "__main__":
    main()
