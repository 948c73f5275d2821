"""The commands, as a user types them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import museval
import numpy as np
import pytest
import soundfile
import stempeg

from jaxpu.cli.__main__ import COMMANDS, main
from jaxpu.config_files import config_names

# A network and patches so small that most of the time goes into the commands themselves.
SMALL_PATCH = ["--data.patch.n-fft", "256", "--data.patch.win-length", "256", "--data.patch.hop-length", "128"]
SMALL_RUN = [
    "--train.num-steps",
    "2",
    "--train.eval-every",
    "1",
    "--train.batch-size",
    "8",
    "--model.channels",
    "2",
    "--model.blocks",
    "1",
]


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def noise(path: Path, seconds: float, seed: int, sample_rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, int(seconds * sample_rate))
    soundfile.write(path, samples, sample_rate)


@pytest.mark.timeout(600)
def test_demo_shortened(tmp_path, capsys):
    network = ["--model.channels", "2", "--model.blocks", "0", "--model.dilations", "1", "1", "2", "2"]
    small = [*SMALL_RUN[:6], *network, "--objective.remix-steps", "1"]
    songs = ["--songs", 4, "--test-songs", 1, "--seconds", 5, "--data.validation-share", "0.5"]
    assert run("demo", "-o", tmp_path, *songs, *small) == 0
    printed = capsys.readouterr().out
    for row in ("model", "mixture", "fixed mask", "oracle ratio mask"):
        assert row in printed
    assert "selected by last. Use of stems: none." in printed
    mixture, rate = soundfile.read(next((tmp_path / "corpus" / "test").iterdir()) / "mixture.wav", dtype="float32")
    parts = {path.stem: soundfile.read(path, dtype="float32") for path in (tmp_path / "separated").rglob("*.wav")}
    assert set(parts) == {"vocals", "accompaniment"}
    assert all(part_rate == rate for _, part_rate in parts.values())
    np.testing.assert_allclose(sum(samples for samples, _ in parts.values()), mixture, atol=1.01 * 2**-15)
    assert (tmp_path / "separation.png").stat().st_size > 10_000
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("evaluate") == 2
    # Done again, it goes through what is there already.
    assert run("demo", "-o", tmp_path, *songs, *small) == 0


@pytest.mark.timeout(600)
def test_two_folders_of_any_audio(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for index in range(3):
        noise(tmp_path / "songs" / f"{index}.wav", 3, index)
        noise(tmp_path / "instrumentals" / "more" / f"{index}.flac", 3, 10 + index, 11_025)
    settings = [
        *SMALL_PATCH,
        "--data.patch.sample-rate",
        "8000",
        "--data.patch.clip-samples",
        "4000",
        "--data.activity-on",
        "off",
    ]
    sources = ["--with", "songs", "--without", "instrumentals"]
    assert run("prepare", "baseline", *sources, *settings, "--workers", 1, "--json") == 0
    printed = capsys.readouterr()
    prepared = json.loads(printed.out)
    assert prepared["counts"]["train_mixture"]["tracks"] == 2
    assert "Preparing 6 tracks" in printed.err
    assert run("info", "data/baseline", "--json") == 0
    assert json.loads(capsys.readouterr().out) == prepared
    assert run("train", "baseline", *settings, *SMALL_RUN) == 0
    assert "step 2, all steps done" in capsys.readouterr().out
    assert list(Path("runs/baseline/tensorboard").iterdir())
    # The same command again finds that nothing is left to do; the module is the same command.
    module = [sys.executable, "-m", "jaxpu.train", "baseline", *settings, *SMALL_RUN]
    again = subprocess.run([*module, "--json"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    results = json.loads(again.stdout)
    assert (results["run"], results["step"], results["stopped"]) == ("runs/baseline", 2, "all steps done")
    # What the run knows of its data, it tells without them.
    assert run("info", "runs/baseline") == 0
    assert "train: 2 (0.00 h) with the target, 2 (0.00 h) without it" in capsys.readouterr().out
    assert run("separate", "runs/baseline", "songs", "-o", "out") == 0
    capsys.readouterr()
    Path("broken.wav").write_text("no sound")
    assert run("separate", "runs/baseline", "songs/0.wav", "broken.wav", "-o", "part", "--json") == 1
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["written"] == {"songs/0.wav": ["part/0/vocals.wav", "part/0/accompaniment.wav"]}
    assert report["failed"].keys() == {"broken.wav"}
    assert f"jaxpu: {report['failed']['broken.wav']}" in printed.err
    assert sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.wav")) == [
        f"{index}/{name}.wav" for index in range(3) for name in ("accompaniment", "vocals")
    ]
    # Remixes at use are for models of `remix`.
    assert run("separate", "runs/baseline", "songs", "-o", "more", "--positives", "instrumentals") == 2
    assert "The model's objective is PUConfig" in capsys.readouterr().err
    small = [*settings, "--model.channels", 2, "--model.blocks", 0, "--model.dilations", 1, 1, 1, 1, *SMALL_RUN[:6]]
    assert run("prepare", "speech_remix", *sources, *small[: len(settings)]) == 0
    assert run("train", "speech_remix", *small) == 0
    for folder, positives in (("plain", []), ("remixed", ["--positives", "instrumentals"])):
        assert run("separate", "runs/speech_remix", "songs/0.wav", "-o", folder, "--subtype", "FLOAT", *positives) == 0
    plain, remixed = (soundfile.read(Path(folder) / "0" / "vocals.wav")[0] for folder in ("plain", "remixed"))
    assert np.abs(plain - remixed).max() > 1e-4
    # Two folders have no stems to select checkpoints with.
    refused = [*module, "--train.select-by", "si_sdr_improvement", "--run", "runs/scored"]
    done = subprocess.run(refused, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "have no stems to score with" in done.stderr
    assert not Path("runs/scored").exists()
    # Other settings than the data's are refused before the first step.
    assert run("train", "baseline", *settings, *SMALL_RUN, "--data.patch.window", "hann", "--run", "runs/other") == 1
    assert "window" in capsys.readouterr().err


@pytest.mark.timeout(600)
def test_the_stem_mp4_of_stempeg_goes_all_the_way(tmp_path):
    for split, number in (("train", 4), ("test", 1)):
        (tmp_path / "musdb" / split).mkdir(parents=True)
        for index in range(number):
            shutil.copy(stempeg.example_stem_path(), tmp_path / "musdb" / split / f"Song {split} {index}.stem.mp4")
    settings = [
        *SMALL_PATCH,
        "--data.patch.sample-rate",
        "16000",
        "--data.patch.clip-samples",
        "16000",
        "--data.validation-share",
        "0.5",
    ]
    assert run("prepare", "baseline", "--musdb18", tmp_path / "musdb", "-o", tmp_path / "data", *settings) == 0
    assert run("train", "baseline", *settings, *SMALL_RUN, "--prepared", tmp_path / "data", "--run", tmp_path / "run") == 0
    song = tmp_path / "musdb" / "test" / "Song test 0.stem.mp4"
    assert run("separate", tmp_path / "run", song, "-o", tmp_path / "out") == 0
    vocals = next((tmp_path / "out").rglob("vocals.*"))
    assert soundfile.info(vocals).samplerate == 44_100
    assert soundfile.info(vocals).channels == 2
    assert run("evaluate", tmp_path / "run", tmp_path / "musdb", "-o", tmp_path / "scores", "--workers", 1) == 0
    store = museval.MethodStore()
    store.add_eval_dir(tmp_path / "scores" / "museval" / "model")
    assert {"vocals", "accompaniment"} <= set(store.df.target)


def test_synthesize(tmp_path, capsys):
    assert run("synthesize", tmp_path / "corpus", "--train", 1, "--test", 0, "--seconds", 4, "--sample-rate", 8000) == 0
    assert len(list((tmp_path / "corpus" / "train").glob("*/vocals.wav"))) == 1
    assert run("synthesize", tmp_path / "corpus", "--train", 2, "--test", 0, "--seconds", 4, "--sample-rate", 8000) == 1
    assert str(tmp_path / "corpus") in capsys.readouterr().err


def test_help_lists_commands_and_configs(capsys):
    assert run() == 0
    printed = capsys.readouterr().out
    for word in (*(f"  {command} " for command in COMMANDS), *config_names()):
        assert word in printed
    with pytest.raises(SystemExit) as stopped:
        run("train", "baseline", "--help")
    assert stopped.value.code == 0
    assert "--objective.class-prior" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_examples_with_its_options(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        run(command, "--help")
    assert stopped.value.code == 0
    examples, _, options = capsys.readouterr().out.partition("Examples:\n")[2].partition("\n\n")
    assert examples
    for example in examples.splitlines():
        assert example.split()[:2] == ["jaxpu", command]
        for option in (word for word in example.split() if re.fullmatch("--?[a-z][a-z.-]*", word)):
            assert re.search(rf"{option}[ ,]", options), f"{option} of {example}"


def test_help_completion_and_configs_need_neither_jax_nor_tensorflow():
    program = """
        import sys
        from jaxpu.cli.__main__ import main
        for args in (["--help"], ["info", "recordings"], ["completion", "bash"], ["no-command"]):
            main(args)
        print(*sys.modules, file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "jaxpu.cli.info" in loaded
    assert not {"jax", "flax", "orbax", "tensorflow", "librosa", "matplotlib"} & loaded


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["sing"], 2, "There is no command 'sing'. It must be one of demo, prepare, train"),
        (["evalute", "run", "corpus"], 2, "There is no command 'evalute'. Did you mean evaluate?"),
        (["train"], 2, "Say which config: jaxpu train CONFIG"),
        (["train", "nothing"], 2, "There is no config 'nothing'. Give"),
        (["train", "basline"], 2, "There is no config 'basline'. Did you mean baseline?"),
        (["train", "mine.py"], 2, "mine.py cannot be read as a config: SyntaxError: '(' was never closed"),
        (["sweep", "baseline"], 2, "Say what to sweep: --over NAME=START:STOP:COUNT, one of class_prior, beta"),
        (
            ["sweep", "baseline", "--over", "prior=.4:.9:6"],
            2,
            "prior cannot be swept with PUConfig; it must be one of class",
        ),
        (["sweep", "baseline", "--over", "gamma"], 2, "--over is 'gamma'; it must be NAME=START:STOP:COUNT"),
        (["prepare", "baseline"], 2, "0 sources are given. Give one"),
        (["prepare", "baseline", "--with", "songs"], 2, "--with and --without belong together"),
        (["prepare", "baseline", "--download"], 2, "--download needs --musdb18"),
        (["prepare", "baseline", "--musdb18hq", "missing"], 1, "missing"),
        (["prepare", "baseline", "--with", "folder", "--without", "folder"], 1, "folder"),
        (["train", "baseline", "--prepared", "missing"], 1, "missing"),
        (["separate", "missing", "song.wav", "-o", "out"], 1, "missing is no run and no archive: it does not exist. Give what"),
        (
            ["separate", "folder", "song.wav", "-o", "out"],
            1,
            "has no folder `checkpoints`. There are runs in it: folder/inner.",
        ),
        (["separate", "mine.py", "song.wav", "-o", "out"], 1, "mine.py is no archive of `jaxpu export`, or is damaged"),
        (["evaluate", "missing", "corpus"], 1, "missing is no run"),
        (["train", "band_split_rnn", "--model.bands", "100", "10", "20", "8"], 2, "bands of 20 Hz, which are 0.93 bins wide"),
        (["compare", "missing", "other"], 1, "the run is not evaluated. Call `jaxpu evaluate missing CORPUS --report`"),
        (["estimate-prior"], 2, "Say which data: jaxpu estimate-prior DATA [CONFIG]"),
        (["estimate-prior", "missing"], 1, "missing: holds no prepared data"),
        (["info", "folder"], 1, "folder is no run, no archive and no prepared data. In it are folder/inner."),
        (["info", "folder/missing"], 1, "folder/missing does not exist. Name a run"),
        (["info", "recordngs"], 2, "There is no config 'recordngs'. Did you mean recordings?"),
        (["synthesize", "mine.py/corpus"], 1, "mine.py/corpus: Not a directory. Check the path"),
    ],
)
def test_errors_are_one_sentence(tmp_path, monkeypatch, capsys, args, status, message):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("config = Config(")
    Path("folder/inner/checkpoints").mkdir(parents=True)
    assert run(*args) == status
    printed = capsys.readouterr()
    assert printed.err.startswith("jaxpu: ")
    assert message in printed.err
    assert not printed.out


def test_an_interrupted_command_says_so(tmp_path):
    # Tests that run in the background of a shell ignore SIGINT, and so do their children.
    program = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "runpy.run_module('jaxpu', run_name='__main__')"
    command = [sys.executable, "-c", program, "synthesize", tmp_path / "corpus"]
    long = ["--train", "2", "--test", "0", "--seconds", "600"]
    process = subprocess.Popen([*command, *long], stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("synthesize:   0%")  # It has begun.
    os.killpg(process.pid, signal.SIGINT)  # To its workers too, as a terminal does.
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "jaxpu: interrupted." in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--objective.class-prior", "1.7", "PUConfig.class_prior is 1.7"),
        ("--objective.class-prior", "guess", "--objective.class-prior"),
        ("--objective.gain-db", "3", "--objective.gain-db"),
        ("--data.target", "bass/drums", "DataConfig.target is ('bass/drums',)"),
        ("--train.select-by", "luck", "--train.select-by"),
        ("--data.patch.hop-length", "1000", "PatchSpec.hop_length is 1000"),
    ],
)
def test_unknown_and_impossible_values_are_refused_by_name(capsys, option, value, message):
    with pytest.raises(SystemExit) as stopped:
        run("train", "baseline", option, value)
    assert stopped.value.code != 0
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (["100", "0"], "BandSplitRNNConfig.bands is ((100.0, 0),); it must be one of vocals, bass, drums, other, or pairs"),
        (["piano"], "--model.bands"),
    ],
)
def test_bands_are_a_name_or_pairs_of_numbers(capsys, bands, message):
    with pytest.raises(SystemExit) as stopped:
        run("train", "band_split_rnn", "--model.bands", *bands)
    assert stopped.value.code != 0
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    # The name of a target is taken, and what comes next is found wrong.
    with pytest.raises(SystemExit):
        run("train", "band_split_rnn", "--model.bands", "bass", "--model.repeats", "0")
    assert "BandSplitRNNConfig.repeats is 0" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_installed_command(tmp_path):
    command = Path(sys.executable).parent / "jaxpu"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path, env=dict(os.environ))
    assert done.stdout.startswith("jaxpu ")
