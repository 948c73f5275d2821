"""Suggested marks: where a model keeps little of the energy."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

import jaxpu
from data_pipeline.errors import AudioError
from data_pipeline.mark_formats import read_marks
from jaxpu.separation.suggest import KEPT_SHARE, MARGIN_S, Energies, Suggestion, passages, suggest


def energies(*shares: tuple[float, float]) -> Energies:
    """Mixtures of energy 1 in which the target has a share for some seconds, one after the other."""
    target = np.concatenate([np.full(round(10 * seconds), share) for seconds, share in shares])
    return Energies(np.ones_like(target), target)


def rounded(found: list[Suggestion]) -> list[tuple[float, float, float]]:
    return [(round(each.begin_s, 1), round(each.end_s, 1), round(each.kept_db)) for each in found]


def test_passages_without_target_the_surest_first():
    found = passages({Path("a"): energies((8, 0.01), (10, 0.5), (6, 0.001), (10, 0.5), (2, 0.001), (3, 0.5))})
    # The first second of a passage beside the target is not sure: the energies are those of a second around a frame.
    ((path, suggestions),) = found.items()
    assert path == Path("a")
    (surest, begin_s, end_s), (second, *_) = ((each.kept_db, each.begin_s, each.end_s) for each in suggestions)
    assert surest < second
    assert 18 + MARGIN_S <= begin_s <= 18.6 + MARGIN_S
    assert 23.4 - MARGIN_S <= end_s <= 24 - MARGIN_S
    assert suggestions[1].begin_s == 0.0


def test_how_much_is_kept_is_compared_with_all_recordings():
    average = 0.25 / (1 - KEPT_SHARE / 2)  # Of all 60 s, the passages with little included.
    low, high = 0.9 * KEPT_SHARE * average, 1.1 * KEPT_SHARE * average
    found = passages({Path("sung"): energies((30, 0.5)), Path("low"): energies((15, low)), Path("high"): energies((15, high))})
    assert rounded(found[Path("low")]) == [(0.0, 15.0, round(10 * np.log10(low)))]
    assert set(found) == {Path("low")}


def test_silence_is_no_example():
    silent = Energies(np.zeros(100), np.zeros(100))
    assert passages({Path("a"): silent}) == {}
    assert passages({Path("a"): silent, Path("b"): energies((10, 0.5))}) == {}


def test_label_tracks_have_the_names_of_their_recordings_and_are_never_replaced(tmp_path, capsys):
    model = jaxpu.load_model(Path(__file__).parents[1] / "data" / "earlier_model.zip")
    paths = [tmp_path / "songs" / name for name in ("one.wav", "more/two.flac", "more/broken.wav")]
    (tmp_path / "songs" / "more").mkdir(parents=True)
    for path in paths[:2]:
        soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((60_000, 2)), 8000)
    paths[2].write_bytes(b"RIFF")
    report = suggest(model, paths, tmp_path / "songs", tmp_path / "labels", progress=False)
    assert list(report.failed) == [paths[2]]
    assert set(report.written) <= {tmp_path / "labels/one.txt", tmp_path / "labels/more/two.txt"}
    for track, found in report.written.items():
        (marked,) = read_marks(track.read_text(), str(track))
        assert [(mark.begin_s, mark.end_s) for mark in marked.marks] == [(each.begin_s, each.end_s) for each in found]
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels/one.txt").write_text("0.0\t1.0\tmine\n")
    with pytest.raises(AudioError, match=r"one\.txt: exists"):
        suggest(model, paths, tmp_path / "songs", tmp_path / "labels", progress=False)
    assert (tmp_path / "labels/one.txt").read_text() == "0.0\t1.0\tmine\n"
