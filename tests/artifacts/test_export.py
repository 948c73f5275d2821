"""Shared models: archives, their cards, and programs that run without jaxpu."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import pytest
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.synthetic.songs import synthesize
from jaxpu.artifacts import archive
from jaxpu.artifacts.archive import ArchiveError
from jaxpu.artifacts.checkpoints import RunCheckpoints, load_model
from jaxpu.artifacts.export import export
from jaxpu.artifacts.info import describe_run, model_rows
from jaxpu.artifacts.model_card import card
from jaxpu.artifacts.stablehlo import serialize
from jaxpu.cli.__main__ import main
from jaxpu.config import BandSplitRNNConfig, Config, PatchCNNConfig, SupervisedConfig, TrainConfig
from jaxpu.config.networks import ModelConfig
from jaxpu.config_files import to_json
from jaxpu.core.network import TrainedModel
from jaxpu.core.step import init_state, separation_variables
from jaxpu.separation.files import separate_waveform

RATE = 8000
LICENCE = "CC-BY-4.0"
DESCRIPTION = "Made of noise by a test of jaxpu; nobody's rights are touched."


PATCH_CNN = PatchCNNConfig(channels=3, growth=1, blocks=1, normalization="batch", features="log")


def make_config(model: ModelConfig = PATCH_CNN, **settings: Any) -> Config:
    patch = PatchSpec(**{"sample_rate": RATE, "clip_samples": 4000, "n_fft": 256, "win_length": 256, "hop_length": 96} | settings)
    return Config(DataConfig(patch=patch), model, SupervisedConfig(), TrainConfig(num_steps=70, seed=3))


def random_variables(config: Config) -> Any:
    """Variables of masks that vary from bin to bin."""
    return jax.tree.map(lambda leaf: 3 * leaf, separation_variables(config, init_state(config)))


def make_run(path: Path, *, scored: bool = False, seed: int = 3, level_db: float | None = None, **settings: Any) -> Path:
    """A run with random parameters."""
    config = make_config(**settings)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
    count = {"tracks": 11, "kept_s": 1800.0, **({} if level_db is None else {"level_db": level_db})}
    counts = {f"train_{signal}": count for signal in ("mixture", "accompaniment")}
    info = {
        "step": 60,
        "select_by": "held_out_loss",
        "score": -0.25,
        "uses_stems": ["supervised training"],
        "data_fingerprint": "0123456789abcdef",
        "data": {"has_stems": True, "counts": counts},
        "estimates": {"class_prior": {"number": 0.625}},
        "stopped": None,
    }
    with RunCheckpoints(path) as checkpoints:
        # Nothing here resumes the run: any state will do.
        variables = random_variables(config)
        checkpoints.save(60, state={"step": np.int32(60)}, variables=variables, score=-0.25, config=config, info=info)
    if scored:
        write_scores(path / "evaluation" / "scores.json", info)
    return path


def write_scores(path: Path, info: dict[str, Any]) -> Path:
    summary = {"si_sdr_improvement_mean": 4.2, "sdr_target": 5.04, "sdr_accompaniment": None}
    methods = {"model": {"num_tracks": 7, "summary": summary, "tracks": {"A song": {}}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"split": "test", "source": "/home/me/corpus", "model": info, "methods": methods}))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("export") / "runs" / "mine", scored=True, level="reference")


@pytest.fixture(scope="module")
def packed(run: Path) -> Path:
    path = run.parent / "model.zip"
    export(run, path, licence="cc-by-4.0", description=DESCRIPTION)
    return path


def noise(num_channels: int, num_samples: int) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 0.2, (num_channels, num_samples)).astype(np.float32)


def test_an_archive_packed_or_unpacked_separates_as_its_run_does(run: Path, packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        assert sorted(archive.namelist()) == ["README.md", "model.json", "parameters.npz"]
        archive.extractall(tmp_path / "unpacked")
    export(run, tmp_path / "folder", licence=LICENCE, description=DESCRIPTION)
    waveform, original = noise(2, 9000), load_model(run)
    expected = separate_waveform(original, waveform, RATE)
    for path in (packed, tmp_path / "unpacked", tmp_path / "folder"):
        model = load_model(path)
        assert (model.config, model.info) == (original.config, original.info)
        jax.tree.map(np.testing.assert_array_equal, model.variables, original.variables)
        np.testing.assert_array_equal(separate_waveform(model, waveform, RATE), expected)
    for name in ("README.md", "model.json", "parameters.npz"):
        assert (tmp_path / "unpacked" / name).read_bytes() == (tmp_path / "folder" / name).read_bytes()
    # The same run gives the same bytes, and nothing half-made stays.
    again = tmp_path / "again.zip"
    for _ in range(2):
        export(run, again, licence=LICENCE, description=DESCRIPTION)
        assert again.read_bytes() == packed.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_the_commands_take_an_archive(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "song.wav", noise(1, 9000).T, RATE)
    assert main(["separate", str(packed), str(tmp_path / "song.wav"), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "song" / "vocals.wav").exists()
    corpus, scores = tmp_path / "corpus", packed.with_name("model-evaluation")
    synthesize(corpus, num_train=1, num_test=1, seconds=4.0, sample_rate=RATE, num_workers=1, progress=False)
    capsys.readouterr()
    assert main(["evaluate", str(packed), str(corpus), "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((scores / "scores.json").read_text())
    # Those of other songs do not stay beside them.
    (scores / "museval" / "model" / "test" / "other.json").write_text("{}")
    assert main(["evaluate", str(packed), str(corpus), "--workers", "1", "--json"]) == 0
    names = [path.stem for path in (scores / "museval" / "model" / "test").iterdir()]
    assert names == list(json.loads(capsys.readouterr().out)["methods"]["model"]["tracks"])
    shutil.rmtree(scores)


def test_info_of_runs_and_archives(
    run: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def info(path: Path, *options: str) -> str:
        assert main(["info", str(path), *options]) == 0
        return capsys.readouterr().out

    document = json.loads(info(packed, "--json"))
    assert (document["licence"], document["description"]) == (LICENCE, DESCRIPTION)
    assert document["num_parameters"] == sum(leaf.size for leaf in jax.tree.leaves(load_model(run).variables["params"]))
    assert document["scores"]["methods"]["model"]["num_tracks"] == 7
    assert "class prior  0.62, estimated from the data" in info(packed)
    # Paths are private.
    assert "/home" not in json.dumps(document)
    assert str(run) not in zipfile.ZipFile(packed).read("model.json").decode()

    text = info(packed)
    for line in (
        "target       vocals",
        "input        mono downmix at 8000 Hz, level: reference",
        f"network      {document['num_parameters']:,} parameters; PatchCNNConfig: channels 3",
        "objective    SupervisedConfig: loss signal_approximation",
        "trained      60 of 70 steps",
        "selected by  held_out_loss (-0.25)",
        "stems        used for supervised training",
        "data         train: 11 (30.0 min) with the target, 11 (30.0 min) without it; validation: 0 (0.0 min)",
        "scores       SI-SDR improvement 4.2 dB, SDR 5.0 dB; 7 tracks of the split test",
        f"licence      {LICENCE}",
        f"about        {DESCRIPTION}",
    ):
        assert f"\n  {line}" in text
    assert "licence      none yet" in info(run)
    # Scores of an earlier checkpoint are not those of this one.
    other = make_run(tmp_path / "other", level="clip")
    assert "scores       unknown" in info(other)
    write_scores(other / "evaluation" / "scores.json", {"step": 30, "data_fingerprint": "0123456789abcdef"})
    assert "scores       unknown" in info(other)
    # A run that went on for more steps keeps the checkpoint that was selected.
    longer = to_json(make_config()) | {"train": to_json(TrainConfig(num_steps=200))}
    (other / "config.json").write_text(json.dumps(longer))
    assert "trained      60 of 200 steps" in info(other)
    # A folder of the same name does not hide a config.
    monkeypatch.chdir(tmp_path)
    Path("recordings").mkdir()
    assert "Train on your own recordings" in info(Path("recordings"))
    assert "class prior  0.6 is set" in info(Path("baseline"))


def test_the_card_tells_what_is_known_and_what_is_not(packed: Path, tmp_path: Path) -> None:
    card = zipfile.ZipFile(packed).read("README.md").decode()
    for text in (
        "# vocals: a separation model of jaxpu",
        DESCRIPTION,
        f"{LICENCE}, for the parameters",
        "stems were used for supervised training",
        "| trained | 60 of 70 steps |",
        "| model | 7 | 4.20 | 5.04 | unknown |",
        "It works at 8000 Hz. Above 4 kHz, where the model's masks end, every moment has one gain",
    ):
        assert text in card
    assert not re.search(r"[{}]|None", card)
    export(make_run(tmp_path / "unscored"), tmp_path / "unscored.zip", licence=LICENCE, description=DESCRIPTION)
    assert "Its scores are unknown" in zipfile.ZipFile(tmp_path / "unscored.zip").read("README.md").decode()


def test_the_card_of_a_program_tells_the_level_that_it_needs(run: Path) -> None:
    document = describe_run(run, load_model(run)) | {"licence": "MIT", "description": "Songs."}
    of_program = card(document, form="stablehlo")
    assert "dB below full" not in of_program, "unknown to an earlier version"
    assert "It takes and gives this rate: what a recording has above 4 kHz goes to the accompaniment." in of_program
    assert "one gain" not in of_program
    document["info"]["data"]["counts"]["train_mixture"]["level_db"] = -19.46
    assert "19.5 dB below full" in card(document, form="stablehlo")
    assert "dB below full" not in card(document, form="jaxpu"), "jaxpu scales by itself"


def test_the_example_of_the_card_separates_with_jaxpu(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "song.wav", noise(2, 9000).T, RATE, subtype="FLOAT")
    shutil.copy(packed, tmp_path / "MODEL.zip")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", zipfile.ZipFile(packed).read("README.md").decode(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    np.testing.assert_array_equal(names["target"], separate_waveform(load_model(packed), noise(2, 9000), RATE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"licence": "free for all"}, "licence is 'free for all'"),
        ({"description": ""}, "description contains ''"),
        ({"description": "..."}, "description contains '...'"),
        ({"description": "Trained on TODO hours"}, "description contains 'TODO'"),
        ({"description": "Trained on <dataset> by me"}, "description contains '<dataset>'"),
    ],
)
def test_no_archive_without_licence_and_description(run: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ArchiveError, match=re.escape(message)):
        export(run, tmp_path / "model.zip", **{"licence": LICENCE, "description": DESCRIPTION, **options})
    assert not list(tmp_path.iterdir())


def test_scores_of_another_checkpoint_and_existing_folders_are_refused(run: Path, packed: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores.json", {"step": 30, "data_fingerprint": "0123456789abcdef"})
    told = {"licence": LICENCE, "description": DESCRIPTION}
    with pytest.raises(ArchiveError, match=r"scores\.json has the scores of a checkpoint other than that of step 60"):
        export(run, tmp_path / "model.zip", scores=scores, **told)
    with pytest.raises(ArchiveError, match=re.escape(f"{tmp_path} exists")):
        export(run, tmp_path, **told)
    with pytest.raises(ArchiveError, match=re.escape(f"{packed} is already an archive")):
        export(packed, tmp_path / "model.zip", **told)
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(ArchiveError, match=r"folder\.zip exists. Delete it"):
        export(run, tmp_path / "folder.zip", **told)


def test_scores_of_another_run_of_the_same_length_and_data_are_refused(run: Path, tmp_path: Path) -> None:
    info = load_model(run).info
    told = {"licence": LICENCE, "description": DESCRIPTION}
    export(run, tmp_path / "model.zip", scores=write_scores(tmp_path / "own.json", info), **told)
    for name, change in (("score", {"score": -0.24}), ("results", {"results": {"loss": 0.24}})):
        with pytest.raises(ArchiveError, match="scores of a checkpoint other"):
            export(run, tmp_path / "model.zip", scores=write_scores(tmp_path / f"{name}.json", info | change), **told)


@pytest.mark.parametrize("description", ["Songs of < 3 min and > 1 min.", "Entrenado con todo mi material propio."])
def test_a_description_may_compare_and_be_in_spanish(run: Path, tmp_path: Path, description: str) -> None:
    export(run, tmp_path / "model.zip", licence=LICENCE, description=description)


def test_a_model_is_not_replaced_by_its_own_program(packed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(packed, tmp_path / "model.zip"))
    with pytest.raises(ArchiveError, match=r"model\.zip is the model itself, which would be replaced"):
        export(copy, copy, form="stablehlo")
    assert copy.read_bytes() == packed.read_bytes()


@pytest.fixture(scope="module")
def ensemble(run: Path, packed: Path) -> Path:
    other = make_run(run.with_name("other"), seed=4, level="reference")
    export([packed, other], run.parent / "ensemble.zip", licence=LICENCE, description=DESCRIPTION)
    return run.parent / "ensemble.zip"


def test_an_ensemble_averages_the_separations_of_its_networks(run: Path, ensemble: Path, tmp_path: Path) -> None:
    waveform = noise(2, 9000)
    parts = [separate_waveform(load_model(path), waveform, RATE) for path in (run, run.with_name("other"))]
    assert np.abs(parts[0] - parts[1]).max() > 0.1
    np.testing.assert_allclose(separate_waveform(load_model(ensemble), waveform, RATE), np.mean(parts, axis=0), atol=1e-6)
    np.testing.assert_allclose(
        separate_waveform(load_model(ensemble), waveform, RATE, shifts=2),
        np.mean(
            [separate_waveform(load_model(path), waveform, RATE, shifts=2) for path in (run, run.with_name("other"))], axis=0
        ),
        atol=1e-6,
    )
    # Of an ensemble and a run, too, all networks count alike.
    export([ensemble, run], tmp_path / "three.zip", licence=LICENCE, description=DESCRIPTION)
    three = separate_waveform(load_model(tmp_path / "three.zip"), waveform, RATE)
    np.testing.assert_allclose(three, (2 * parts[0] + parts[1]) / 3, atol=1e-6)
    program = jax.export.deserialize(bytearray(serialize(load_model(ensemble))))
    whole = separate_waveform(load_model(ensemble), waveform[:, :8928], RATE)  # Whole hops.
    np.testing.assert_allclose(program.call(waveform[None, :, :8928])[0], whole, atol=1e-5)


def test_an_ensemble_says_that_it_is_one(run: Path, ensemble: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = sum(leaf.size for leaf in jax.tree.leaves(load_model(run).variables["params"]))
    assert main(["info", str(ensemble)]) == 0
    expected = f"2 networks of {size:,} parameters each, whose masks are averaged; PatchCNNConfig"
    assert expected in capsys.readouterr().out
    assert expected in zipfile.ZipFile(ensemble).read("README.md").decode()
    assert json.loads(zipfile.ZipFile(ensemble).read("model.json"))["num_parameters"] == 2 * size


def test_an_ensemble_says_how_each_network_was_trained(packed: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(packed, tmp_path / "other")
    document = json.loads((tmp_path / "other" / "model.json").read_text())
    document["info"]["step"], document["config"]["train"]["num_steps"] = 9, 90
    document["info"]["select_by"], document["info"]["data"]["counts"]["train_mixture"]["tracks"] = "last", 5000
    (tmp_path / "other" / "model.json").write_text(json.dumps(document))
    parameters = tmp_path / "other" / "parameters.npz"
    np.savez(parameters, **{name: array * np.float32(0.5) for name, array in np.load(parameters).items()})
    export([packed, tmp_path / "other"], tmp_path / "both.zip", licence=LICENCE, description=DESCRIPTION)
    export([tmp_path / "both.zip", packed], tmp_path / "three.zip", licence=LICENCE, description=DESCRIPTION)
    own = dict(model_rows(archive.read_description(packed)))
    for name in ("both.zip", "three.zip"):
        said = dict(model_rows(archive.read_description(tmp_path / name)))
        assert said["trained"] == f"{own['trained']} | 9 of 90 steps"
        assert said["selected by"].startswith(f"{own['selected by']} | last (")
        assert "5000" in said["data"]


def test_scores_of_an_ensemble_are_not_those_of_a_run(run: Path, ensemble: Path, tmp_path: Path) -> None:
    models = [run, run.with_name("other")]
    assert json.loads(zipfile.ZipFile(ensemble).read("model.json"))["scores"] is None
    told = {"licence": LICENCE, "description": DESCRIPTION}
    with pytest.raises(ArchiveError, match=r"Evaluate this one: jaxpu evaluate \S+scored\.zip CORPUS"):
        export(models, tmp_path / "scored.zip", scores=run / "evaluation" / "scores.json", **told)
    with pytest.raises(ArchiveError, match=r"A run has no licence, nor have several models together"):
        export(models, tmp_path / "scored.zip", description=DESCRIPTION)
    scores = write_scores(tmp_path / "scores.json", load_model(ensemble).info)
    with pytest.raises(ArchiveError, match="scores of a checkpoint other"):
        export([run, make_run(tmp_path / "third", seed=5, level="reference")], tmp_path / "scored.zip", scores=scores, **told)
    export(models, tmp_path / "scored.zip", scores=scores, **told)
    assert (
        json.loads(zipfile.ZipFile(tmp_path / "scored.zip").read("model.json"))["scores"]["methods"]["model"]["num_tracks"] == 7
    )


def test_models_with_the_same_parameters_are_no_ensemble(run: Path, packed: Path, ensemble: Path, tmp_path: Path) -> None:
    told = {"licence": LICENCE, "description": DESCRIPTION}
    for models in ([run, run], [run, packed], [ensemble, run, ensemble]):
        with pytest.raises(ArchiveError, match=r"have the same parameters, .* Name each model once, or train one with another"):
            export(models, tmp_path / "model.zip", **told)
    assert not list(tmp_path.iterdir())


def test_models_that_differ_in_more_than_parameters_are_no_ensemble(run: Path, ensemble: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", level="reference", hop_length=128)
    louder = make_run(tmp_path / "louder", level_db=-3.0, level="reference")
    with pytest.raises(ArchiveError, match=r"cannot be an ensemble: the STFT of the first is .*hop_length=96.*second.*=128"):
        export([run, other], tmp_path / "model.zip", licence=LICENCE, description=DESCRIPTION)
    with pytest.raises(ArchiveError, match=r"level of the training mixtures .* Take runs that differ in their seed or their tr"):
        export([run, louder], tmp_path / "model.zip", licence=LICENCE, description=DESCRIPTION)
    shutil.unpack_archive(ensemble, tmp_path / "unpacked")
    document = json.loads((tmp_path / "unpacked" / "model.json").read_text())
    for number, message in ((0, "has 0 networks, and may have 1 to 64"), (3, "does not fit the network of its config (2/")):
        document["info"]["num_networks"] = number
        (tmp_path / "unpacked" / "model.json").write_text(json.dumps(document))
        with pytest.raises(ArchiveError, match=re.escape(message)):
            load_model(tmp_path / "unpacked")


def test_the_command_makes_an_ensemble(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["-o", str(tmp_path / "model.zip"), "--licence", LICENCE, "--description", DESCRIPTION]
    other = make_run(tmp_path / "other", seed=4, level="reference")
    assert main(["export", str(run), str(other), *told, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["info"]["num_networks"] == 2
    assert main(["export", *told]) == 2
    assert "Give at least one model" in capsys.readouterr().err


def test_damaged_and_foreign_archives_are_refused(run: Path, packed: Path, tmp_path: Path) -> None:
    def unpacked(name: str) -> Path:
        shutil.unpack_archive(packed, tmp_path / name)
        return tmp_path / name

    def refused(path: Path, message: str) -> None:
        with pytest.raises(ArchiveError, match=re.escape(message)) as caught:
            load_model(path)
        assert str(path) in str(caught.value)

    half = tmp_path / "half.zip"
    half.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    refused(half, "is not an archive of `jaxpu export`, or is damaged")
    for name in ("model.json", "parameters.npz"):
        flipped, content = tmp_path / f"{name}.zip", bytearray(packed.read_bytes())
        content[zipfile.ZipFile(packed).getinfo(name).header_offset + 200] ^= 255
        flipped.write_bytes(content)
        refused(flipped, "is not an archive of `jaxpu export`, or is damaged")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.jpg", b"")
    refused(tmp_path / "photos.zip", "is not a model: it contains no model.json")

    model = load_model(run)
    wider = unpacked("wider")
    document = json.loads((wider / "model.json").read_text())
    document["config"]["model"]["channels"] = 4
    (wider / "model.json").write_text(json.dumps(document))
    refused(wider, "batch_stats/norm_0/mean is float32 (3,); it must be float32 (4,)")
    missing, arrays = unpacked("missing"), dict(np.load(packed_parameters(packed, tmp_path)))
    bias = arrays.pop("params/output/bias")
    np.savez(missing / "parameters.npz", **arrays)
    refused(missing, f"params/output/bias is missing; it must be float32 {bias.shape} (1 arrays differ)")
    # Nothing in an archive is run: numpy does not unpickle objects.
    pickled = unpacked("pickled")
    np.savez(pickled / "parameters.npz", **(arrays | {"params/output/bias": np.array([model], object)}), allow_pickle=True)
    refused(pickled, "params/output/bias is object")
    newer = unpacked("newer")
    (newer / "model.json").write_text(json.dumps(document | {"format": 2}))
    refused(newer, "has format 2; this version of jaxpu reads 1")


def packed_parameters(packed: Path, folder: Path) -> Path:
    with zipfile.ZipFile(packed) as archive:
        return Path(archive.extract("parameters.npz", folder))


WITHOUT_JAXPU = """
    import sys
    for name in ("jaxpu", "data_pipeline", "flax", "orbax", "tensorflow", "scipy.signal", "librosa"):
        sys.modules[name] = None  # An import of it fails.
    exec(open("example.py").read())
    assert separate.__wrapped__.__self__.platforms == ("cpu", "cuda", "tpu")
    # One program for any number of recordings, channels and samples.
    pair = np.stack([mixture[:1, :7001], -mixture[1:, :7001]])
    np.save("pair.npy", np.asarray(separate(pair)))
"""


@pytest.mark.slow
def test_the_example_of_the_card_runs_a_program_without_jaxpu(tmp_path: Path) -> None:
    run, folder = make_run(tmp_path / "run", level="clip", stereo=True), tmp_path / "program"
    export(run, folder, licence="MIT", description=DESCRIPTION, form="stablehlo")
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (folder / "example.py").write_text(example)
    mixture = noise(2, 10_000) + np.float32(0.05)  # Not a whole number of hops, and not of zero mean.
    np.save(folder / "mixture.npy", mixture)
    command = [sys.executable, "-c", textwrap.dedent(WITHOUT_JAXPU)]
    subprocess.run(command, cwd=folder, env=os.environ, check=True)
    model = load_model(run)
    expected = separate_waveform(model, mixture, RATE)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(np.load(folder / "target.npy"), expected, atol=1e-5)
    for part, found in zip((mixture[:1, :7001], -mixture[1:, :7001]), np.load(folder / "pair.npy"), strict=True):
        np.testing.assert_allclose(found, separate_waveform(model, part, RATE), atol=1e-5)
    assert "Channels are separated one by one" in (folder / "README.md").read_text()
    with pytest.raises(ArchiveError, match="contains no parameters: its StableHLO program runs only outside jaxpu"):
        load_model(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        make_config(level="reference"),
        make_config(level="recording"),
        make_config(
            BandSplitRNNConfig(bands=((1000.0, 8),), channels=4, repeats=1, hidden=4, mask_hidden=8),
            hop_length=128,
            level="reference",
        ),
    ],
    ids=lambda config: f"{type(config.model).__name__}-{config.data.patch.level}",
)
def test_a_program_separates_as_jaxpu_does(config: Config) -> None:
    model = TrainedModel(config, random_variables(config), {})
    separate = jax.jit(jax.export.deserialize(bytearray(serialize(model))).call)
    waveform = noise(2, 5000) + np.float32(0.05)  # Not a whole number of hops, and not of zero mean.
    expected = separate_waveform(model, waveform, RATE)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(np.asarray(separate(waveform[None])[0]), expected, atol=1e-5)


def test_masks_of_the_test_vary(run: Path) -> None:
    """Else equal outputs would show nothing."""
    model: TrainedModel = load_model(run)
    waveform = noise(1, 9000)
    target = separate_waveform(model, waveform, RATE)
    ratio = np.abs(np.fft.rfft(target[0])) / np.abs(np.fft.rfft(waveform[0]))
    assert np.ptp(ratio) > 0.1
