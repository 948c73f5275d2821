"""The benchmarks: every experiment is run once and can resume, and the documents' tables are those of the JSON files."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from data_pipeline.config import STEMS
from data_pipeline.synthetic.songs import synthesize
from jaxpu import onednn
from jaxpu.config import Config, PatchCNNConfig

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def modules() -> tuple[ModuleType, ModuleType, ModuleType]:
    import experiments
    import run_experiments
    import tables

    return experiments, run_experiments, tables


def marked(*names: str) -> str:
    """A document with old tables of these names."""
    tables = "".join(f"<!-- results{name}: begin -->\nold\n<!-- results{name}: end -->\n" for name in names)
    return f"before\n{tables}after\n"


def cells(row: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in row.strip("|").split("|")]


def result(target: str, method: str, seed: int, improvements: list[float]) -> dict[str, Any]:
    """The JSON file of an experiment with these improvements, one per song."""
    songs = {
        f"Song {number}": {
            "si_sdr_improvement": value,
            "sdr_target": value - 1,
            "sdr_accompaniment": value + 1,
            "kept_energy": 0.5 + number / 4,
            "blank_rate": 0.25,
        }
        for number, value in enumerate(improvements)
    }
    validation = [
        {"step": 100, "si_sdr_improvement": 1.0, "kept_energy": 0.4, "true_kept_energy": 0.5},
        {"step": 200, "si_sdr_improvement": 2.0, "kept_energy": 0.1, "true_kept_energy": 0.5},
    ]
    identity = {"target": target, "method": method, "seed": seed, "name": f"{target}_{method}_{seed}", "warnings": []}
    device = "NVIDIA H200 (gpu)" if seed == 0 else "cpu (cpu)"
    identity |= {"train_s": 60.0 * (seed + 1), "machine": f"1 x {device}, 1 process(es)", "config": {"train": {"num_steps": 200}}}
    return identity | {"validation": validation, "scores": {"model": songs, "mixture": songs}}


def test_names_are_unique_and_all_share_what_they_should(modules: tuple[ModuleType, ...]) -> None:
    every = list(modules[0].experiments())
    assert len({experiment.name for experiment in every}) == len(every)
    first = every[0].config
    for experiment in every:
        config = experiment.config
        of_16_khz = experiment.block == "three networks, 16 kHz"
        assert config.data.patch.sample_rate == (16_000 if of_16_khz else 11_025)
        assert (config.data.patch == first.data.patch) != of_16_khz
        other_network = experiment.block == "networks" or experiment.method.endswith(("band-split RNN, 16 kHz", "U-Net, 16 kHz"))
        assert (config.model == first.model) != other_network
        of_many_clips = experiment.block in modules[0].TARGETS or experiment.songs != "main"
        assert config.train.batch_size == (24 if of_many_clips else 6)
        same = dataclasses.replace(
            config.train,
            seed=first.train.seed,
            batch_size=first.train.batch_size,
            learning_rate=first.train.learning_rate,
            disjoint_tracks=first.train.disjoint_tracks,
            select_by=first.train.select_by,
            num_steps=first.train.num_steps,
            eval_every=first.train.eval_every,
        )
        assert same == first.train
        longer = experiment.block.endswith(" 2400 steps") and experiment.method.endswith(", 2400 steps")
        assert (config.train.num_steps, config.train.eval_every) == ((2400, 300) if longer else (800, 100))
        assert (config.train.select_by == "last") == experiment.method.startswith("bootstrap")
        rate = ", rate " in experiment.method
        assert rate == (config.train.learning_rate != first.train.learning_rate)
        everything = experiment.method.startswith("supervised") and "half" not in experiment.method
        assert config.train.disjoint_tracks != everything


def test_tables_by_hand(modules: tuple[ModuleType, ...], tmp_path: Path) -> None:
    experiments, _, tables = modules
    made = {}
    for experiment in experiments.experiments():
        if experiment.target == "vocals" and experiment.block == "vocals":
            if experiment.method in ("remix", "bootstrap"):
                values = [4.0 + experiment.seed, 6.0 + experiment.seed]
            elif experiment.method == "supervised, ratio mask":
                values = [8.0, 8.0]
            elif experiment.method == "supervised, ratio mask, rate 0.008":  # better, but of one seed alone
                values = [20.0, 20.0]
            else:
                continue
            made[experiment.name] = result("vocals", experiment.method, experiment.seed, values)
        # Compared with the supervised runs that take as many clips a step, though those of the block above are better.
        elif experiment.method == "supervised, ratio mask, 6 clips":
            made[experiment.name] = result("vocals", experiment.method, experiment.seed, [5.0, 5.0])
        elif experiment.method == "remix, positives +3 dB" and experiment.seed == 0:
            made[experiment.name] = result("vocals", experiment.method, 0, [2.0, 3.0])
    for name, values in made.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    (tmp_path / "measured").mkdir()
    measured = {"commands": ["jaxpu demo"], "machine": "One core.", "columns": ["method", "dB"], "rows": [["mixture", "0"]]}
    (tmp_path / "measured" / "by-hand.json").write_text(json.dumps(measured))
    document = tmp_path / "results.md"
    document.write_text(marked("", "/vocals", "/levels", "/networks", "/watchdog", "/by-hand"))
    tables.write_all(tmp_path, [document])
    text = document.read_text()
    assert (text.split("\n")[0], text.split("\n")[-2]) == ("before", "after")
    assert "old" not in text
    lines = text.splitlines()
    (row,) = [cells(line) for line in lines if line.startswith("| remix |")]
    assert row[1] == "3"
    assert re.fullmatch(r"6\.00 \(.* to .*; ± 1\.00\)", row[2])
    assert row[3].startswith("0.75 (")
    assert row[4:] == ["5.00", "7.00", "0.62 (0.50 to 0.75)", "25%", "cpu 150 s, gpu 60 s"]
    low, high = (float(value) for value in row[3].split("(")[1].rstrip(")").split(" to "))
    assert 0.5 <= low < 0.75 < high <= 1
    (moved,) = [cells(line) for line in lines if line.startswith("| remix, positives +3 dB |")]
    assert moved[3].startswith("0.50 (")
    assert ["vocals", "6.0 dB", "8.0 dB", "0.75"] in [cells(line) for line in lines]
    assert not any(line.startswith("| bootstrap, no dilation") for line in lines)  # it has not been run
    assert "mixture 5.00" in text
    # Every run keeps 0.1 of 0.5 at its last evaluation, and nobody warned.
    assert ["14", "0", "14", "0"] in [cells(line) for line in lines]
    assert "    jaxpu demo\n\n| method | dB |" in text
    # The same files give the same document.
    tables.write_all(tmp_path, [document])
    assert document.read_text() == text


def test_a_mark_without_its_end_or_its_table_is_an_error(modules: tuple[ModuleType, ...], tmp_path: Path) -> None:
    tables = modules[2]
    document = tmp_path / "results.md"
    document.write_text(marked("/no-such-table"))
    with pytest.raises(ValueError, match="results/no-such-table"):
        tables.write_all(tmp_path, [document])
    document.write_text("<!-- results/vocals: begin -->\n")
    with pytest.raises(ValueError, match="results/vocals: begin"):
        tables.write_all(tmp_path, [document])


def test_the_tables_of_the_documents_are_those_of_the_results(modules: tuple[ModuleType, ...], tmp_path: Path) -> None:
    tables = modules[2]
    copies = {tmp_path / str(number): document.read_text(encoding="utf-8") for number, document in enumerate(DOCUMENTS)}
    for copy, text in copies.items():
        copy.write_text(text, encoding="utf-8")
    tables.write_all(BENCHMARKS / "results", copies)
    changed = [document for document, (copy, text) in zip(DOCUMENTS, copies.items(), strict=True) if copy.read_text() != text]
    assert not changed, "python benchmarks/run_experiments.py --tables"


def test_every_result_is_of_an_experiment_or_in_a_table(modules: tuple[ModuleType, ...]) -> None:
    experiments = modules[0]
    names = {experiment.name for experiment in experiments.experiments()}
    kept = {experiments.file_name("vocals", f"bootstrap, {rounds}", 0) for rounds in ("one round", "three rounds")}
    assert {path.stem for path in (BENCHMARKS / "results").glob("*.json")} <= names | kept


def test_trials_have_one_form_and_are_all_listed() -> None:
    listed = re.findall(r"\(trials/([\w-]+)\.md\)", (ROOT / "docs" / "trials.md").read_text(encoding="utf-8"))
    pages = sorted((ROOT / "docs" / "trials").glob("*.md"))
    assert {page.stem for page in pages} == set(listed)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Question", "Change", "Set-up", "Result", "Decision"], page
        for link in re.findall(r"\]\(([^)#:]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.slow
def test_an_experiment_is_run_once_and_the_others_later(
    modules: tuple[ModuleType, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiments, run_experiments, tables = modules
    more = synthesize(tmp_path / "more", num_train=7, num_test=2, seconds=4.0, sample_rate=8000, num_workers=1)
    corpus = shutil.copytree(more, tmp_path / "corpus")
    shutil.rmtree(sorted((corpus / "train").iterdir())[-1])

    def shrink(experiment: Any) -> Any:
        config: Config = experiment.config
        patch = dataclasses.replace(
            config.data.patch, sample_rate=8000, clip_samples=2048, n_fft=256, win_length=256, hop_length=128
        )
        small = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, patch=patch, validation_share=0.34),
            model=PatchCNNConfig(channels=2, blocks=0, features="log"),
            train=dataclasses.replace(config.train, num_steps=4, batch_size=8, eval_every=2, eval_batches=1),
        )
        return dataclasses.replace(experiment, config=small)

    first, of_more_songs = (
        next(each for each in experiments.experiments() if (each.block, each.method) == row)
        for row in (("vocals", "remix"), ("vocals, more songs", "supervised, ratio mask"))
    )
    chosen = [shrink(first), shrink(of_more_songs)]
    assert [each.songs for each in chosen] == ["main", "more"]
    for module in (run_experiments, tables, run_experiments.pictures):
        monkeypatch.setattr(module, "experiments", lambda: iter(chosen))
    document = tmp_path / "results.md"
    document.write_text(marked("/vocals", "/vocals-more-songs"))
    folders = [f"--{name}={tmp_path / name}" for name in ("work", "results", "pictures")]
    common = [str(corpus), *folders, "--documents", str(document)]
    result_file = tmp_path / "results" / "vocals_remix_0.json"
    run_experiments.main([*common, "--minutes", "0"])
    assert not result_file.exists()
    run_experiments.main(common)  # the other experiment has no corpus
    assert list((tmp_path / "results").glob("*.json")) == [result_file]
    assert "| remix |" in document.read_text()
    written = result_file.read_text()
    run_experiments.main([*common, "--more", str(more)])
    assert result_file.read_text() == written
    assert "| supervised, ratio mask |" in document.read_text()
    values = json.loads(written)
    supervised = json.loads((tmp_path / "results" / "more_vocals_supervised--ratio-mask_0.json").read_text())
    assert supervised["data"] != values["data"]
    assert (values["uses_stems"], supervised["uses_stems"]) == ([], ["supervised training"])
    assert values["train_s"] > 0
    assert [line["step"] for line in values["validation"]] == [2, 4]
    assert {"model", "mixture"} < set(values["scores"])
    assert set(values["scores"]["model"]) == {path.name for path in (corpus / "test").iterdir()}
    assert set(supervised["scores"]) == {"model"}
    assert {path.name for path in (tmp_path / "pictures").glob("*.png")} == {"curves_vocals.png", "masks_vocals.png"}
    capsys.readouterr()


def test_the_watchdog_is_judged_by_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import watchdog

    levels = {
        "loss": 0.5,
        "gradient_norm": 1.0,
        "inactive_share": 0.5,
        "input_energy": 1.0,
        "unlabeled_energy": 1.0,
        "positive_energy": 0.7,
    }
    for name, share, kept in (
        ("blank", 0.3, [0.01] * 4),
        ("healthy", 0.3, [0.2] * 4),
        ("low at first", 0.3, [0.05, 0.2, 0.2, 0.2]),
        ("of a quiet target", 0.1, [0.05] * 4),
        ("unfinished", 0.3, [0.01] * 2),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"train": {"num_steps": 400}}))
        lines = []
        for number, energy in enumerate(kept, 1):
            known = {"step": 100 * number, "loss": 0.5, "kept_energy": energy}
            lines.append({"kind": "train", **known, **levels})
            lines.append({"kind": "evaluate", **known, "true_kept_energy": share})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    watchdog.main([str(tmp_path)])
    assert capsys.readouterr().out.splitlines() == [
        "hit: blank, step 139; energy kept / true energy: 0.03 0.03 0.03 0.03",
        "missed: low at first; energy kept / true energy: 0.17 0.67 0.67 0.67",
        "false: of a quiet target, step 139; energy kept / true energy: 0.50 0.50 0.50 0.50",
        "4 runs: 1 hit, 1 missed, 1 false, 1 silent",
    ]


@pytest.mark.slow
def test_level_estimates_of_all_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import level_estimates

    synthesize(tmp_path, num_train=4, num_test=2, seconds=4.0, sample_rate=11_025, num_workers=1, progress=False)
    level_estimates.main([str(tmp_path), "--tracks", "3", "--divisions", "2"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[target, level] for level in ("reference", "recording") for target in STEMS]
    errors = np.array([float(row[-1]) for row in rows])
    assert np.all((errors > 0) & (errors < 12))
    with pytest.raises(SystemExit):
        level_estimates.main([str(tmp_path), "--tracks", "4"])
    assert "6 songs are too few for 4 mixtures and 4 positives" in capsys.readouterr().err


@pytest.mark.slow
def test_times_of_the_forms_of_a_convolution(
    modules: tuple[ModuleType, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import convolutions

    small = {
        "MODEL": PatchCNNConfig(channels=2, blocks=0, dilations=((1, 1), (2, 2)), features="log"),
        "PATCH": dataclasses.replace(modules[0].PATCH, clip_samples=1024, n_fft=128, win_length=128, hop_length=64),
    }
    for module in (modules[0], convolutions):
        for name, value in small.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(convolutions, "OBJECTIVES", {"pu": convolutions.OBJECTIVES["pu"]})
    monkeypatch.setattr(convolutions, "DTYPES", convolutions.DTYPES[:1])
    monkeypatch.setattr(convolutions, "REPEATS", 1)
    convolutions.main(["--clips", "1"])
    first, *lines = capsys.readouterr().out.splitlines()
    assert ", 1 clips, ms" in first
    assert [line.split(":")[0] for line in lines] == [
        "layer, float32, dilation 1",
        "layer, float32, dilation 2",
        "step, pu",
    ]
    for line in lines:
        times = [part.rsplit(" ", 1) for part in line.split(": ")[1].split(", ")]
        assert [form for form, _ in times] == ["xla", "phases", "gradient_by_example"] + ["onednn"] * (not onednn.why_missing())
        assert all(float(time) > 0 for _, time in times)


def test_noise_is_of_many_kinds_and_a_function_of_the_seed() -> None:
    import make_speech

    def noise(seed: int) -> np.ndarray:
        return make_speech.noise(np.random.default_rng(seed), 2 * make_speech.RATE)

    signals = [noise(seed) for seed in range(8)]
    np.testing.assert_array_equal(noise(3), signals[3])
    np.testing.assert_allclose([signal.std() for signal in signals], 1)
    # Where half of the energy lies below, in Hz.
    power = np.cumsum([np.abs(np.fft.rfft(signal)) ** 2 for signal in signals], axis=1)
    medians = (power < power[:, -1:] / 2).sum(axis=1) / 2
    assert medians.max() > 4 * medians.min()


def test_speech_in_noise_has_the_ratio_that_it_says(tmp_path: Path) -> None:
    import make_speech

    for number in range(3):
        make_speech.make((tmp_path, 0, number, "test"))
    (tmp_path / "noisy").mkdir()
    make_speech.make((tmp_path, 0, 0, "noisy"))
    assert soundfile.info(tmp_path / "noisy" / "000.wav").duration == make_speech.SECONDS
    for folder in (tmp_path / "corpus" / "test").iterdir():
        stems = {path.stem: soundfile.read(path)[0] for path in folder.iterdir()}
        assert stems.keys() == {"mixture", "vocals", "other", "drums", "bass"}
        np.testing.assert_allclose(stems["vocals"] + stems["other"], stems["mixture"], atol=2**-15)
        voice = stems["vocals"]
        loud = np.abs(voice) > 0.05 * np.abs(voice).max()
        ratio_db = 20 * np.log10(voice[loud].std() / stems["other"].std())
        assert -5.1 < ratio_db < 10.1
