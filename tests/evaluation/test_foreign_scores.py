"""Scores and logs that other programs wrote, or damage: one sentence that names the file and the field, or a page."""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.errors import UserError
from jaxpu.artifacts.info import DescriptionError, describe_run, read_scores, to_text
from jaxpu.cli.__main__ import main
from jaxpu.config import Config
from jaxpu.core.network import TrainedModel
from jaxpu.evaluation import excerpts
from jaxpu.evaluation.baselines import MODEL
from jaxpu.evaluation.html_report import write_comparison, write_report
from jaxpu.evaluation.scoring import EvaluationError, score_track
from jaxpu.evaluation.table import Table
from jaxpu.evaluation.table import read_scores as read_all_scores
from jaxpu.monitoring.run_log import LogError, read_log

RATE = 8000
INFO = {"step": 4, "select_by": "last", "score": 4.0, "uses_stems": [], "data_fingerprint": "0123456789abcdef"}
ENERGIES = {"input_energy": 1.0, "unlabeled_energy": 1.0, "positive_energy": 0.5}
LOG = [
    {"kind": "train", "step": 2, "loss": 0.7, "kept_energy": 0.2, **ENERGIES},
    {"kind": "evaluate", "step": 4, "loss": float("nan"), "kept_energy": 0.1},
    {"kind": "warning", "step": 4, "text": "Blank <output>."},
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a log, and the evaluation of two songs by two methods."""
    run = tmp_path_factory.mktemp("runs") / "run"
    tracks: dict[str, Any] = {MODEL: {}, "a $^method$": {}}
    signals = []
    for number, name in enumerate(("A song", "B $song")):
        noise = np.random.default_rng(number)
        target, other = (noise.normal(0, 0.1, (1, 2 * RATE)) for _ in range(2))
        for gain, method in enumerate(tracks, 1):
            estimate = {"target": target + 0.1 * gain * other, "accompaniment": (1 - 0.1 * gain) * other}
            tracks[method][name] = score_track({"target": target, "accompaniment": other}, estimate, RATE)
        waves = {"mixture": target + other, "target": target, "estimate": target + 0.1 * other}
        signals.append((name, {signal: wave.astype(np.float32) for signal, wave in waves.items()}, RATE))
    written = excerpts.write(run / "evaluation", signals)
    info = {"split": "test", "target": ["vocals"], "source": "corpus", "full": False, "model": INFO, "excerpts": written}
    document = Table(tracks, {"C song": "silent"}, info, run / "evaluation" / "scores.json")
    document.write()
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    return run


@pytest.fixture
def run(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "run"))


def change_scores(json_damage: Any, run: Path, path: tuple[Any, ...], value: Any) -> Path:
    file = run / "evaluation" / "scores.json"
    file.write_text(json.dumps(json_damage.changed(json.loads(file.read_text()), path, value)))
    return file


A_SONG = ("methods", "model", "tracks", "A song")

FIELDS: list[tuple[tuple[Any, ...], Any, str]] = [
    ((), [], "is []"),
    ((), None, "is None"),
    (("split",), 5, "split is 5"),
    (("target",), {}, "target is {}"),
    (("full",), "no", "full is 'no'"),
    (("model",), None, "model is None"),
    (("model", "step"), "last", "model.step is 'last'"),
    (("model", "uses_stems"), "none", "model.uses_stems is 'none'"),
    (("excluded_tracks",), [], "excluded_tracks is []"),
    (("methods",), [], "methods is []"),
    (("methods",), {}, "methods.model.tracks is missing"),
    (("methods", "model", "tracks"), {}, "methods.model.tracks is missing"),
    (("methods", "model", "summary"), 1.0, "methods.model.summary is 1.0"),
    (("methods", "model", "summary", "sdr_target"), "good", "methods.model.summary.sdr_target is 'good'"),
    (A_SONG, {}, "methods.model.tracks.A song.blank_rate is missing"),
    ((*A_SONG, "si_sdr_improvement"), None, "A song.si_sdr_improvement is None"),
    ((*A_SONG, "si_sdr"), float("nan"), "A song.si_sdr is nan"),
    ((*A_SONG, "kept_energy"), [1], "A song.kept_energy is [1]"),
    (("methods", "mixture"), {"summary": {}, "tracks": {}}, "methods.mixture.tracks has other tracks"),
    (("excerpts",), [], "excerpts is []"),
    (("excerpts", "A song", "sample_rate"), 0, "excerpts.A song"),
    (("excerpts", "A song", "sample_rate"), 10**12, "excerpts.A song"),
    (("excerpts", "A song", "start_s"), -1, "excerpts.A song"),
    (("excerpts", "../../elsewhere"), {"start_s": 0, "seconds": 1, "sample_rate": 8000}, "excerpts.../../elsewhere"),
]


@pytest.mark.parametrize(("path", "value", "named"), FIELDS, ids=lambda value: str(value)[:40])
def test_a_field_of_the_scores_that_is_wrong_is_named(
    json_damage: Any, run: Path, path: tuple[Any, ...], value: Any, named: str
) -> None:
    file = change_scores(json_damage, run, path, value)
    with pytest.raises(EvaluationError) as caught:
        write_report(run, run / "evaluation", progress=False)
    assert str(file) in str(caught.value)
    assert named in str(caught.value)
    assert not (run / "evaluation" / "report.html").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000], ids=str)
def test_scores_that_are_no_json(run: Path, content: bytes) -> None:
    file = run / "evaluation" / "scores.json"
    file.write_bytes(content)
    with pytest.raises(EvaluationError, match=str(file)):
        read_all_scores(file)
    with pytest.raises(DescriptionError, match=str(file)):
        read_scores(file, INFO)
    file.unlink()
    file.mkdir()
    with pytest.raises(EvaluationError, match=str(file)):
        read_all_scores(file)


def test_good_scores_make_a_page(run: Path) -> None:
    page = write_report(run, run / "evaluation", progress=False).read_text()
    assert "B $song" in page
    assert "a $^method$" in page
    write_comparison([run, run], run / "both.html", progress=False)


def test_excerpts_of_different_sizes_are_refused(run: Path) -> None:
    folder = run / "evaluation" / "excerpts"
    other = [("A song", {signal: np.full((1, RATE), 0.1, np.float32) for signal in excerpts.SIGNALS}, RATE)]
    excerpts.write(run / "other", other)
    shutil.copy(run / "other" / "excerpts" / "A song" / "target.flac", folder / "A song" / "target.flac")
    with pytest.raises(EvaluationError, match="A song have different sizes"):
        write_report(run, run / "evaluation", progress=False)


def test_every_score_in_turn_is_refused_or_read(json_damage: Any, run: Path) -> None:
    """A sample of all damage by `tests.conftest.JsonDamage`; the seed is printed."""
    seed = random.randrange(2**32)
    print("seed", seed)
    file = run / "evaluation" / "scores.json"
    every = list(json_damage.variants(json.loads(file.read_text())))
    outcomes = {"read": 0, "refused": 0}
    model = TrainedModel(Config(), {"params": {}}, INFO)
    for path, value, foreign in random.Random(seed).sample(every, 200):
        file.write_text(json.dumps(foreign))
        begin, message = time.process_time(), str(file)
        try:
            to_text(describe_run(run, model))
            read_all_scores(file)
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            message = str(error)
        assert str(file) in message, (path, value)
        assert time.process_time() - begin < 2, (path, value)
    assert min(outcomes.values()) > 10


def test_a_page_of_scores_with_other_numbers(json_damage: Any, run: Path) -> None:
    document = json.loads((run / "evaluation" / "scores.json").read_text())
    document["excerpts"] = {}
    every = [
        (path, value)
        for path in json_damage.paths(document)
        if path[:1] == ("methods",) and len(path) > 3
        for value in (-1, 1e308, 10**30, None, 0)
    ]
    for path, value in random.Random(0).sample(every, 5):
        (run / "evaluation" / "scores.json").write_text(json.dumps(json_damage.changed(document, path, value)))
        message = ""
        try:
            write_report(run, run / "evaluation", progress=False)
        except EvaluationError as error:
            message = str(error)
        assert not message or "scores.json" in message


LINES: list[tuple[str, str]] = [
    ("[]", "is []"),
    ("null", "is None"),
    ("garbage", "is damaged"),
    ('{"kind": "tr', "is damaged"),
    ('{"step": 1}', "kind is missing"),
    ('{"kind": "train", "loss": 1.0}', "step is missing"),
    ('{"kind": "train", "step": "one", "loss": 1.0}', "step is 'one'"),
    ('{"kind": "train", "step": true, "loss": 1.0}', "step is True"),
    ('{"kind": "train", "step": 1}', "loss is missing"),
    ('{"kind": "evaluate", "step": 1, "loss": "low"}', "loss is 'low'"),
    ('{"kind": "evaluate", "step": 1, "loss": 1, "kept_energy": [1]}', "kept_energy is [1]"),
    ('{"kind": "warning", "step": 1}', "text is missing"),
    ('{"kind": "warning", "step": 1, "text": 1}', "text is 1"),
]


@pytest.mark.parametrize(("line", "named"), LINES)
def test_a_damaged_line_of_a_log_is_named(run: Path, line: str, named: str) -> None:
    log = run / "metrics.jsonl"
    log.write_text(log.read_text() + line + "\n" + json.dumps(LOG[0]) + "\n")
    with pytest.raises(LogError) as caught:
        read_log(run)
    for text in (str(log), "line 4", named):
        assert text in str(caught.value)


@pytest.mark.parametrize("rest", ['{"kind": "tr', "", "{", "\n", '{"kind": "evaluate", "step": 6, "lo'])
def test_a_last_line_that_a_kill_cut_is_left_out(run: Path, rest: str) -> None:
    with (run / "metrics.jsonl").open("a") as log:
        log.write(rest)
    assert [line["step"] for line in read_log(run)] == [2, 4, 4]


def test_a_log_without_its_last_newline_is_read_whole(run: Path) -> None:
    log = run / "metrics.jsonl"
    log.write_text(log.read_text().rstrip())
    assert len(read_log(run)) == len(LOG)


def test_the_command_says_one_sentence(json_damage: Any, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_scores(json_damage, run, (*A_SONG, "si_sdr"), None)
    assert main(["compare", str(run), str(run), "-o", str(run / "page.html")]) == 1
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert "A song.si_sdr is None" in printed.err
    assert not (run / "page.html").exists()


def test_the_output_folder_of_an_evaluation_is_no_run(run: Path) -> None:
    folder = run / "evaluation"
    with pytest.raises(EvaluationError, match=r"evaluation is the output folder of an evaluation .*evaluated without -o"):
        write_comparison([run, folder], run / "both.html", progress=False)
