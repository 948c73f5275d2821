"""The commands, as a user types them."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import museval
import numpy as np
import pytest
import soundfile
import stempeg

from data_pipeline.tracks import Musdb18, Musdb18HQ
from jaxpu.cli.__main__ import COMMANDS, main
from jaxpu.cli.command import config_options, next_line
from jaxpu.cli.demo_pipeline import example_songs
from jaxpu.config_files import config_names, config_path

# A network and patches so small that most of the time goes into the commands themselves.
SETTINGS = [
    *("--data.patch.n-fft", "256", "--data.patch.win-length", "256", "--data.patch.hop-length", "128"),
    *("--data.patch.sample-rate", "8000", "--data.patch.clip-samples", "4000", "--data.activity-on", "off"),
]
SMALL_STEPS = ["--train.num-steps", "2", "--train.eval-every", "1", "--train.batch-size", "8"]
SMALL_RUN = [*SMALL_STEPS, "--model.channels", "2", "--model.blocks", "1"]
ROOT = Path(__file__).parent.parent.parent
LATIN1 = os.fsdecode(b"caf\xe9")
SOURCES = ["--with", "songs", "--without", "instrumentals"]


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def noise(path: Path, seconds: float, seed: int, sample_rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, int(seconds * sample_rate))
    soundfile.write(path, samples, sample_rate)


def suggested(printed: str) -> list[str]:
    """The words of the command that the last line suggests, after `jaxpu`."""
    jaxpu, *words = shlex.split(printed.splitlines()[-1].removeprefix("Next: "))
    assert jaxpu == "jaxpu"
    return words


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(3):
        noise(folder / "songs" / f"{index}.wav", 3, index)
        noise(folder / "instrumentals" / "more" / f"{index}.flac", 3, 10 + index, 11_025)
    return folder


@pytest.fixture(scope="module")
def trained(recordings: Path) -> Path:
    """The recordings, beside them data prepared from them in `my data`, and a run of two steps in `my run`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(recordings)
        assert run("prepare", "baseline", *SOURCES, *SETTINGS, "-o", "my data", "--workers", 1) == 0
        assert run("train", "baseline", *SETTINGS, *SMALL_RUN, "--prepared", "my data", "--run", "my run") == 0
    return recordings


@pytest.fixture
def workshop(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `trained`, as the current one."""
    monkeypatch.chdir(trained)
    return trained


@pytest.mark.slow
def test_each_command_suggests_the_next_with_the_options_given(workshop, capsys):
    # Done again, each finds that nothing is left to do.
    assert run("prepare", "baseline", *SOURCES, *SETTINGS, "-o", "my data") == 0
    following = suggested(capsys.readouterr().out)
    assert following == ["train", "baseline", *SETTINGS, "--prepared", "my data"]
    assert run(*following, *SMALL_RUN, "--run", "my run") == 0
    printed = capsys.readouterr().out
    assert "my run: step 2" in printed
    following = suggested(printed)
    assert following == ["separate", "my run", "RECORDING", "-o", "separated"]
    assert run(*[word.replace("RECORDING", "songs") for word in following]) == 0
    assert sorted(path.relative_to("separated").as_posix() for path in Path("separated").rglob("*.wav")) == [
        f"{index}/{name}.wav" for index in range(3) for name in ("accompaniment", "vocals")
    ]


def test_suggested_commands_can_be_pasted_into_a_shell():
    words = ["it's", 'a "b" $HOME `ls`', "new\nline", "*", "", "Ü", "-o=x", "a;b"]
    line = next_line("train", *words).removeprefix("Next: ")
    script = f"jaxpu() {{ printf '%s\\0' \"$@\"; }}; {line}"
    printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.split("\0")[:-1] == ["train", *words]


def test_suggested_commands_repeat_the_fields_of_the_config():
    fields = [
        "--data.target=guitar",
        "--data.patch.stereo",
        "--data.target-to-accompaniment-db",
        "-5",
        "10",
        "--data.seed",
        "1",
    ]
    other = ["--with", "a", "--without=b", "-o", "c", "--workers", "2", "--skip-bad", "--json"]
    assert config_options([*other, *fields]) == fields
    assert config_options([*fields[:2], *other, *fields[2:]]) == fields


def test_json_is_all_of_standard_output(workshop, capfd):
    assert run("prepare", "baseline", *SOURCES, *SETTINGS, "--workers", 1, "--json") == 0
    printed = capfd.readouterr()
    prepared = json.loads(printed.out)
    assert prepared["counts"]["train_mixture"]["tracks"] == 2
    assert "Preparing 6 tracks" in printed.err
    assert run("info", "data/baseline", "--json") == 0
    assert json.loads(capfd.readouterr().out) == prepared
    assert run("train", "baseline", *SETTINGS, *SMALL_RUN, "--prepared", "my data", "--run", "my run", "--json") == 0
    results = json.loads(capfd.readouterr().out)
    assert (results["run"], results["step"], results["stopped"]) == ("my run", 2, "all steps done")
    assert list(Path("my run/tensorboard").iterdir())


def test_a_run_tells_of_its_data_without_them(workshop, capsys):
    assert run("info", "my run") == 0
    assert "train: 2 (0.1 min) with the target, 2 (0.1 min) without it" in capsys.readouterr().out


def test_a_config_tells_of_the_stems_of_the_model_that_it_begins_with(capsys):
    assert run("info", "adapt") == 0
    assert "used for initial parameters, if starter used them (`jaxpu info starter`)" in capsys.readouterr().out


def test_what_cannot_be_separated_is_named_and_the_rest_is_separated(workshop, capsys):
    Path("broken.wav").write_text("no sound")
    assert run("separate", "my run", "songs/0.wav", "broken.wav", "-o", "part", "--json") == 1
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["written"] == {"songs/0.wav": ["part/0/vocals.wav", "part/0/accompaniment.wav"]}
    assert report["failed"].keys() == {"broken.wav"}
    assert f"jaxpu: {report['failed']['broken.wav']}" in printed.err


@pytest.mark.parametrize(
    ("args", "status", "named"),
    [
        # Two folders have no stems to select checkpoints with.
        (["--train.select-by", "si_sdr_improvement"], 2, ["si_sdr_improvement", "stems"]),
        (["--data.patch.window", "hann"], 1, ["window", "hann", "hamming"]),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused_before_the_first_step(workshop, capsys, args, status, named):
    assert run("train", "baseline", *SETTINGS, *SMALL_RUN, "--prepared", "my data", *args, "--run", "other") == status
    printed = capsys.readouterr().err
    assert all(word in printed for word in named)
    assert not Path("other").exists()


@pytest.mark.slow
def test_the_stem_mp4_of_stempeg_is_prepared_separated_and_scored(workshop, capsys):
    for split, number in (("train", 4), ("test", 1)):
        Path("musdb", split).mkdir(parents=True)
        for index in range(number):
            Path("musdb", split, f"Song {split} {index}.stem.mp4").symlink_to(stempeg.example_stem_path())
    share = ["--data.validation-share", "0.5"]
    assert run("prepare", "baseline", "--musdb18", "musdb", "-o", "from musdb", *SETTINGS, *share, "--json") == 0
    prepared = json.loads(capsys.readouterr().out)
    assert prepared["has_stems"]
    assert {name: count["tracks"] for name, count in prepared["counts"].items()} == {
        f"{split}_{kind}": 2 for split in ("train", "validation") for kind in ("mixture", "accompaniment")
    }
    assert run("separate", "my run", "musdb/test/Song test 0.stem.mp4", "-o", "from musdb separated") == 0
    vocals = soundfile.info(next(Path("from musdb separated").rglob("vocals.*")))
    assert (vocals.samplerate, vocals.channels) == (44_100, 2)
    assert run("evaluate", "my run", "musdb", "-o", "scores", "--workers", 1) == 0
    store = museval.MethodStore()
    store.add_eval_dir(Path("scores", "museval", "model"))
    assert {"vocals", "accompaniment"} <= set(store.df.target)


def test_the_demo_needs_a_test_song(tmp_path, capsys):
    assert run("demo", "-o", tmp_path, "--test-songs", 0) == 2
    assert "--test-songs is 0; it must be at least 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["train", "prepare", "sweep"])
def test_help_is_offered_for_the_config_that_was_given(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    shutil.copy(config_path("demo"), "my config.py")
    with pytest.raises(SystemExit):
        run(command, "my config.py", "--train.nope", 1)
    printed = re.sub(r"[│\s]+", " ", capsys.readouterr().err)
    assert f"run jaxpu {command} 'my config.py' --help" in printed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_shortened(tmp_path, capsys):
    network = ["--model.channels", "2", "--model.blocks", "0", "--model.dilations", "1", "1", "2", "2"]
    small = [*SMALL_STEPS, *network, "--objective.remix-steps", "1"]
    songs = ["--songs", 4, "--test-songs", 1, "--seconds", 5, "--data.validation-share", "0.5"]
    assert run("demo", "-o", tmp_path, *songs, *small) == 0
    printed = capsys.readouterr().out
    for row in ("model", "mixture", "fixed mask", "oracle ratio mask"):
        assert row in printed
    assert "selected by last. Use of stems: none." in printed
    assert suggested(printed) == ["separate", str(tmp_path / "run"), "RECORDING", "-o", "separated"]
    mixture, rate = soundfile.read(next((tmp_path / "corpus" / "test").iterdir()) / "mixture.wav", dtype="float32")
    parts = {path.stem: soundfile.read(path, dtype="float32") for path in (tmp_path / "separated").rglob("*.wav")}
    assert set(parts) == {"vocals", "accompaniment"}
    assert all(part_rate == rate for _, part_rate in parts.values())
    np.testing.assert_allclose(sum(samples for samples, _ in parts.values()), mixture, atol=1.01 * 2**-15)
    assert (tmp_path / "separation.png").stat().st_size > 10_000
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("evaluate") == 2
    # Done again, it trains no further, whatever else lies among its songs.
    (tmp_path / "corpus" / "test" / ".DS_Store").write_bytes(b"")
    assert run("demo", "-o", tmp_path, *songs, *small) == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == len(kinds)


def test_songs_that_cannot_be_downloaded_are_synthesized(tmp_path, monkeypatch, capsys):
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    settings: dict[str, Any] = {"num_train": 1, "num_test": 1, "seconds": 4.0, "sample_rate": 8000}
    assert example_songs("musdb", tmp_path, **settings) == Musdb18HQ(tmp_path / "synthetic")
    assert str(tmp_path / "musdb") in capsys.readouterr().out
    assert len(list((tmp_path / "synthetic").glob("*/*/mixture.wav"))) == 2
    for split in ("train", "test"):
        (tmp_path / "musdb" / split).mkdir(parents=True)
    assert example_songs("musdb", tmp_path, **settings) == Musdb18(tmp_path / "musdb")
    with pytest.raises(ValueError, match="songs is 'musbd'"):
        example_songs("musbd", tmp_path, **settings)  # type: ignore[arg-type]


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
    ("args", "status", "named"),
    [
        (["sing"], 2, "'sing' demo prepare train"),
        (["evalute", "run", "corpus"], 2, "'evalute' evaluate?"),
        (["train"], 2, "CONFIG baseline"),
        (["train", "nothing"], 2, "'nothing' baseline"),
        (["train", "basline"], 2, "'basline' baseline?"),
        (["train", "mine.py"], 2, "mine.py SyntaxError"),
        (["sweep", "baseline"], 2, "--over NAME=START:STOP:COUNT class_prior"),
        (["sweep", "baseline", "--over", "prior=.4:.9:6"], 2, "prior PUConfig class_prior"),
        (["sweep", "baseline", "--over", "gamma"], 2, "--over 'gamma' NAME=START:STOP:COUNT"),
        (["sweep", "baseline", "--over", "gamma=0", "--over", "gamma=1"], 2, "--over gamma=0 gamma=1"),
        (["prepare", "baseline"], 2, "0 --with --without --musdb18"),
        (["prepare", "baseline", "--with", "songs"], 2, "--with --without"),
        (["prepare", "baseline", "--musdb18", "songs", "--musdb18hq", "songs"], 2, "2 --musdb18 --musdb18hq"),
        (["prepare", "baseline", "--download"], 2, "--download --musdb18"),
        (["prepare", "baseline", "--with", "a", "--without", "b", "--workers", "0"], 2, "--workers 0"),
        (["evaluate", "missing", "corpus", "--workers", "-1"], 2, "--workers -1"),
        (["evaluate", "missing", "corpus", "--examples", "-1"], 2, "--examples -1"),
        (["prepare", "baseline", "--with", "folder", "--without", "b", "-o", LATIN1], 2, r"\udce9 UTF-8"),
        (["train", "baseline", "--run", LATIN1], 2, r"\udce9 UTF-8"),
        (["sweep", "demo", "--over", "learning_rate=1e-3", "--prepared", LATIN1], 2, r"\udce9 UTF-8"),
        (["demo", "-o", LATIN1], 2, r"\udce9 UTF-8"),
        (["prepare", "baseline", "--musdb18hq", "missing"], 1, "missing"),
        (["prepare", "baseline", "--with", "folder", "--without", "folder"], 1, "folder"),
        (["train", "baseline", "--prepared", "missing"], 1, "missing"),
        (["train", "band_split_rnn", "--model.bands", "100", "10", "20", "8"], 2, "20 0.93"),
        (["separate", "missing", "song.wav", "-o", "out"], 1, "missing"),
        (["separate", "folder", "song.wav", "-o", "out"], 1, "folder checkpoints folder/inner"),
        (["separate", "folder/inner", "-o", "out"], 2, "FILE_OR_FOLDER"),
        (["separate", "mine.py", "song.wav", "-o", "out"], 1, "mine.py"),
        (["evaluate", "missing", "corpus"], 1, "missing"),
        (["compare", "missing"], 2, "RUN"),
        (["compare", "missing", "other"], 1, "evaluate missing --report"),
        (["estimate-prior"], 2, "DATA CONFIG"),
        (["estimate-prior", "missing"], 1, "missing"),
        (["info", "folder"], 1, "folder folder/inner"),
        (["info", "folder/missing"], 1, "folder/missing"),
        (["info", "recordngs"], 2, "'recordngs' recordings?"),
        (["info", "model.zip"], 1, "model.zip exist"),
        (["info", "noext"], 2, "noext SyntaxError"),
        (["prepare", "demo", "--with", "folder", "--without", "b", "--beam=--runner='x"], 2, "--runner='x quotation"),
        (["separate", "starter", "", "-o", "out"], 2, "empty"),
        (["train", "demo", "--run", ""], 2, "empty (--run)"),
        (["sweep", "demo", "--over", "gain_db=0", "--run="], 2, "empty (--run)"),
        (["prepare", "demo", "--stems", "corpus", "--out", ""], 2, "empty (--out)"),
        (["train", "demo", "--train.init-from", ""], 1, "holds no prepared data"),
        (["separate", "starter", "mine.py", "-o", "out", "--shifts", "3"], 2, "shifts 3 2048"),
        (["separate", "starter", "mine.py", "-o", "out", "--format", "m4a"], 2, "'m4a' .wav .mp3"),
        (["separate", "starter", "mine.py", "-o", "out", "--subtype", "PCM_32"], 2, "'PCM_32' FLOAT PCM_16"),
        (["separate", "starter", "mine.py", "-o", "out", "--format", "flac", "--subtype", "FLOAT"], 2, "'FLOAT' .flac PCM_24"),
        (["export", "-o", "model.zip"], 2, "MODEL"),
        (["synthesize", "mine.py/corpus"], 1, "mine.py/corpus"),
    ],
)
def test_an_error_is_one_line_that_names_the_thing_and_the_remedy(tmp_path, monkeypatch, capsys, args, status, named):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("config = Config(")
    Path("noext").write_text("config = Config(")
    Path("folder/inner/checkpoints").mkdir(parents=True)
    assert run(*args) == status
    printed = capsys.readouterr()
    assert re.fullmatch("jaxpu: .*\n", printed.err)
    assert all(word in printed.err for word in named.split())
    assert not printed.out


@pytest.mark.parametrize("platforms", ["nope", "cuda"])
def test_a_platform_that_jax_does_not_have_is_named(tmp_path, platforms):
    noise(tmp_path / "song.wav", 1, 0)
    command = [sys.executable, "-m", "jaxpu.cli", "separate", "starter", "song.wav", "-o", "out"]
    environment = {**os.environ, "JAX_PLATFORMS": platforms, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "jaxpu: JAX can use no device" in done.stderr
    assert f"JAX_PLATFORMS is '{platforms}': unset it" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_next_command_of_a_config_file_names_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(config_path("demo").read_text())
    assert run("info", "mine.py") == 0
    assert "jaxpu prepare mine.py --help" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", config_names())
def test_the_commands_of_a_config_are_valid(tmp_path, monkeypatch, name):
    """They fail here because their files are missing, not because of their arguments."""
    commands = re.findall(r"^    jaxpu (.+)$", (ROOT / "configs" / f"{name}.py").read_text(), re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert command == "demo" or run(*shlex.split(command)) == 1, command


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
    ("config", "options", "named"),
    [
        ("baseline", ["--objective.class-prior", "1.7"], "PUConfig.class_prior 1.7"),
        ("baseline", ["--objective.class-prior", "guess"], "--objective.class-prior 'guess'"),
        ("baseline", ["--objective.gain-db", "3"], "--objective.gain-db"),
        ("baseline", ["--data.target", "bass/drums"], "DataConfig.target bass/drums"),
        ("baseline", ["--data.target", "Accompaniment"], "DataConfig.target Accompaniment instruments"),
        ("baseline", ["--train.select-by", "luck"], "--train.select-by luck"),
        ("baseline", ["--data.patch.hop-length", "1000"], "PatchSpec.hop_length 1000"),
        # Bands are a name or pairs of numbers.
        ("band_split_rnn", ["--model.bands", "100", "0"], "BandSplitRNNConfig.bands 100.0"),
        ("band_split_rnn", ["--model.bands", "piano"], "--model.bands"),
        ("band_split_rnn", ["--model.bands", "bass", "--model.repeats", "0"], "BandSplitRNNConfig.repeats 0"),
    ],
)
def test_unknown_and_impossible_values_are_refused_by_name(capsys, config, options, named):
    with pytest.raises(SystemExit) as stopped:
        run("train", config, *options)
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert all(word in printed for word in named.split())


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("demo", "prepare", "train", "sweep", "compare")])
def test_missing_arguments_end_with_status_2(capsys, command):
    try:
        status = run(command)
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert f"jaxpu {command}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ([Path(sys.executable).with_name("jaxpu"), "--version"], "jaxpu "),
        ([sys.executable, "-m", "jaxpu", "--version"], "jaxpu "),
        ([sys.executable, "-m", "jaxpu.train", "--help"], "usage: jaxpu train CONFIG "),
    ],
)
def test_the_installed_command_and_its_modules(tmp_path, command, printed):
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith(printed)
