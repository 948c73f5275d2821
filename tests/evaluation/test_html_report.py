"""The page of an evaluation and that of a comparison, in a real browser: what is on them, and that they play."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Musdb18HQ
from jaxpu.cli.__main__ import main
from jaxpu.config import Config, PatchCNNConfig, RemixConfig, TrainConfig
from jaxpu.evaluation import excerpts
from jaxpu.evaluation.evaluate import EvaluationOptions, evaluate_separator
from jaxpu.evaluation.html_report import Evaluated, _paired, write_comparison
from jaxpu.evaluation.scoring import score_track
from jaxpu.monitoring.plots import CURVES
from jaxpu.training.loop import train

pytestmark = pytest.mark.timeout(600)

RATE = 8000
SECONDS = 13.0
TONES = {"vocals": 1800, "drums": 600, "bass": 300, "other": 900}
"""Frequency of each stem in Hz, by which its sound is known."""

NAMES = ("<img src=x onerror=alert(1)>", 'Tom & "Jerry\'s" <b>', "Mañana 日本 $x_1$")
CONFIG = Config(
    data=DataConfig(
        patch=PatchSpec(sample_rate=RATE, clip_samples=4000, n_fft=256, win_length=256, hop_length=128),
        activity_on="off",
        validation_share=0.5,
    ),
    model=PatchCNNConfig(channels=2, blocks=0),
    objective=RemixConfig(),
    train=TrainConfig(num_steps=4, batch_size=8, eval_every=2, eval_batches=1),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Musdb18HQ:
    """Songs of four tones, with names that are no HTML; the vocals grow louder from the first to the last."""
    root = tmp_path_factory.mktemp("corpus")
    time_s = np.arange(round(SECONDS * RATE)) / RATE
    songs = [("train", f"Song {index}") for index in range(4)] + [("test", name) for name in NAMES]
    for index, (split, name) in enumerate(songs):
        (root / split / name).mkdir(parents=True)
        stems = {stem: 0.05 * np.sin(2 * np.pi * TONES[stem] * time_s) for stem in STEMS}
        stems["vocals"] *= 1 + index
        stems["mixture"] = sum(stems.values())
        for stem, samples in stems.items():
            soundfile.write(root / split / name / f"{stem}.wav", np.stack([samples, samples], axis=1), RATE)
    return Musdb18HQ(root)


@pytest.fixture(scope="module")
def runs(corpus: Musdb18HQ, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trained run, evaluated by the command, and one whose estimate of the target is the drums."""
    root = tmp_path_factory.mktemp("runs")
    prepare(corpus, CONFIG.data, root / "data", num_workers=1, progress=False)
    train(CONFIG, root / "data", root / "first", progress=False)
    shutil.copytree(root / "first", root / "second <b>")
    with (root / "first" / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"kind": "warning", "step": 3, "text": "Blank <output> & more."}) + '\n{"kind": "tr')
    command = ["evaluate", root / "first", corpus.root, "--workers", 1, "--report", "--examples", 2]
    assert main([str(argument) for argument in command]) == 0
    evaluate_drums(corpus, root / "second <b>" / "evaluation", num_excerpts=3)
    return root / "first", root / "second <b>"


def evaluate_drums(corpus: Musdb18HQ, out: Path, **options: Any) -> None:
    """Evaluate a separator that returns the drums instead of the vocals."""
    samples = np.arange(round(SECONDS * RATE))
    drums = 0.05 * np.sin(2 * np.pi * TONES["drums"] * samples / RATE).astype(np.float32)
    settings = EvaluationOptions(num_workers=1, progress=False, **options)
    evaluate_separator(lambda mixture, rate: np.stack([drums, drums]), CONFIG.data, corpus, out, settings)


@pytest.fixture(scope="module")
def comparison(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comparison") / "page.html"
    assert main(["compare", *map(str, runs), "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("needs a browser: the packages chromium and chromium-driver, which `make test-browser` installs")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Chromium has no sandbox for root, and little shared memory in containers.
    switches = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "mute-audio", "autoplay-policy=no-user-gesture-required")
    for switch in switches:
        options.add_argument(f"--{switch}")
    driver = webdriver.Chrome(service=Service(programs[1]), options=options)
    yield driver
    driver.quit()


def open_page(browser: webdriver.Chrome, path: Path, width: int = 1200, height: int = 900) -> None:
    """Opens a page in a window of that size, and sees that it loads without complaint and without the network."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []
    assert browser.execute_script("return [...document.images].filter(image => !image.naturalWidth || !image.alt).length") == 0


def wait(browser: webdriver.Chrome, condition: Callable[[], Any]) -> Any:
    return WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda _: condition())


# Adds `heard()`: of every sound that plays its number, its position, and the level of every tone in dB.
LISTEN = """
const tones = arguments[0], context = new AudioContext();
const sounds = [...document.querySelectorAll("audio")].map((sound) => {
  const analyser = new AnalyserNode(context, { fftSize: 4096, smoothingTimeConstant: 0 });
  context.createMediaElementSource(sound).connect(analyser).connect(context.destination);
  return { sound, analyser };
});
window.heard = () => sounds.map(({ sound, analyser }, index) => {
  const levels = new Float32Array(analyser.frequencyBinCount), width = context.sampleRate / analyser.fftSize;
  analyser.getFloatFrequencyData(levels);
  const level = (tone) => Math.max(-999, ...levels.slice(Math.floor((tone - 60) / width), Math.ceil((tone + 60) / width)));
  return { index, paused: sound.paused, time: sound.currentTime, levels: tones.map(level) };
}).filter((each) => !each.paused);
"""


def heard(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """Sounds that play; their `stems` are those whose tones are in them."""
    playing = browser.execute_script("return heard()")
    for each in playing:
        each["stems"] = {stem for stem, level in zip(TONES, each["levels"], strict=True) if level > -50}
    return playing


# Of the song's sounds all are loaded, and no others.
LOADED = """
const sounds = [...arguments[0].querySelectorAll("audio")];
return sounds.every((sound) => sound.readyState > 0) && document.querySelectorAll("audio[src]").length === sounds.length;
"""

# Where the sound that played stopped, and where the chosen one goes on.
SWITCH = """
const before = heard()[0].index;
arguments[0].click();
return [document.querySelectorAll("audio")[before].currentTime, heard()[0].time];
"""


def listen(browser: webdriver.Chrome, expected: dict[str, set[str]]) -> None:
    """Plays every source of every song, and hears in it the stems that are expected of sources with that label."""
    browser.execute_script(LISTEN, list(TONES.values()))
    index = 0
    for song in browser.find_elements(By.CSS_SELECTOR, ".song"):
        button = song.find_element(By.CSS_SELECTOR, "button")
        button.click()
        wait(browser, lambda song=song: browser.execute_script(LOADED, song))
        after = 0.0
        for number, choice in enumerate(song.find_elements(By.CSS_SELECTOR, "label")):
            if number > 0:
                stopped, after = browser.execute_script(SWITCH, choice)
                assert 0 < stopped == pytest.approx(after, abs=0.01), f"It stopped at {stopped} s and went on at {after} s."

            def playing(index: int = index, start: float = after, label: str = choice.text) -> bool:
                (found,) = heard(browser)
                as_expected = found["stems"] == expected.get(label, found["stems"])
                return found["index"] == index and found["time"] != start and as_expected

            wait(browser, playing)
            index += 1
        assert button.text == "Pause"
        # The last song plays on, until the next one starts.
    # However fast the choices follow each other, it is the last one that plays.
    browser.execute_script("for (const choice of arguments[0].querySelectorAll('label')) choice.click()", song)
    assert [each["index"] for each in heard(browser)] == [index - 1]
    button.click()
    assert heard(browser) == []
    assert browser.get_log("browser") == []


@pytest.mark.slow
@pytest.mark.browser
def test_the_report_of_an_evaluation(browser, runs):
    page = runs[0] / "evaluation" / "report.html"
    open_page(browser, page)
    assert browser.title == "Separation of vocals"
    titles = [title.text for title in browser.find_elements(By.CSS_SELECTOR, "h3")]
    assert len(titles) == 2
    assert set(titles) < set(NAMES)
    text = browser.find_element(By.CSS_SELECTOR, "body").text
    for part in (*NAMES, "oracle ratio mask", "Use of stems: none", "Songs: 3, the split test", "Blank <output> & more."):
        assert part in text
    captions = [caption.text for caption in browser.find_elements(By.CSS_SELECTOR, ".song figcaption")]
    assert captions == 2 * ["mixture", "vocals, true", "vocals, separated", "mask"]
    assert len(browser.find_elements(By.CSS_SELECTOR, "section figure")) == len(CURVES) + 1
    labels = [label.text for label in browser.find_elements(By.CSS_SELECTOR, ".song label")]
    assert labels == 2 * ["mixture", "vocals, true", "vocals, separated", "accompaniment, separated"]
    listen(browser, {"mixture": set(TONES), "vocals, true": {"vocals"}})


@pytest.mark.slow
@pytest.mark.browser
def test_runs_are_heard_side_by_side(browser, comparison):
    open_page(browser, comparison)
    songs = browser.find_elements(By.CSS_SELECTOR, ".song")
    labels = [[label.text for label in song.find_elements(By.CSS_SELECTOR, "label")] for song in songs]
    both = ["mixture", "vocals, true", "A: vocals", "B: vocals", "A: accompaniment", "B: accompaniment"]
    assert labels == [both, both, ["mixture", "vocals, true", "B: vocals", "B: accompaniment"]]
    rows = {row.text.split()[0] + row.text.split()[1]: row.text for row in browser.find_elements(By.CSS_SELECTOR, "tr")}
    assert {"B−", "oracleratio"} <= rows.keys()
    assert "B is better on 0 of 3 songs." in browser.find_element(By.CSS_SELECTOR, "body").text
    everything = set(TONES)
    expected = {"mixture": everything, "B: vocals": {"drums"}, "B: accompaniment": everything - {"drums"}}
    listen(browser, expected | {"vocals, true": {"vocals"}})


@pytest.mark.slow
@pytest.mark.browser
def test_a_paused_player_by_the_keyboard(browser, runs):
    open_page(browser, runs[0] / "evaluation" / "report.html")
    state = "const [a, b] = document.querySelectorAll('audio'); return [a.currentTime, b.currentTime, a.paused, b.paused]"
    slider, first = (browser.find_element(By.CSS_SELECTOR, f".song input[type={kind}]") for kind in ("range", "radio"))
    for _ in range(3):
        slider.send_keys(Keys.PAGE_UP)
        wait(browser, lambda: float(slider.get_attribute("value")) == browser.execute_script(state)[0] > 0)
    position = browser.execute_script(state)[0]
    assert 3 < position < excerpts.EXCERPT_S
    first.send_keys(Keys.ARROW_RIGHT)
    wait(browser, lambda: browser.execute_script(state) == [position, position, True, True])
    button = browser.find_element(By.CSS_SELECTOR, ".song button")
    button.send_keys(Keys.SPACE)
    wait(browser, lambda: browser.execute_script(state)[1] > position)
    assert browser.execute_script(state)[2:] == [True, False]
    assert button.text == "Pause"


@pytest.mark.slow
@pytest.mark.browser
def test_pages_fit_a_phone_and_need_no_network(browser, runs, comparison):
    for page in (runs[0] / "evaluation" / "report.html", comparison):
        open_page(browser, page, 360, 740)
        widths = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert widths == [360, 360]
        right_edges = (
            "return [...document.querySelectorAll('button, label, img, output')].map(e => e.getBoundingClientRect().right)"
        )
        assert max(browser.execute_script(right_edges)) <= 360
        without_data = re.sub(r"base64,[\w+/=]*", "", page.read_text())
        assert not re.search(r"//\w", without_data)


def test_excerpts_are_what_was_scored(corpus, tmp_path):
    options = EvaluationOptions(num_workers=1, num_excerpts=9, progress=False)
    table = evaluate_separator(lambda mixture, rate: 0.5 * mixture, CONFIG.data, corpus, tmp_path, options)
    written = json.loads((tmp_path / "scores.json").read_text())["excerpts"]
    assert set(written) == set(NAMES)
    for name, excerpt in written.items():
        assert excerpt == {"start_s": 0.0, "seconds": excerpts.EXCERPT_S, "sample_rate": RATE}
        sounds = excerpts.read(tmp_path, name)
        mixture = soundfile.read(corpus.root / "test" / name / "mixture.wav", dtype="float32")[0].T
        np.testing.assert_allclose(sounds["estimate"], 0.5 * mixture[:, : round(excerpts.EXCERPT_S * RATE)], atol=2**-15)
        accompaniment = sounds["mixture"] - sounds["target"]
        estimate = {"target": sounds["estimate"], "accompaniment": sounds["mixture"] - sounds["estimate"]}
        scores = score_track({"target": sounds["target"], "accompaniment": accompaniment}, estimate, RATE)
        assert scores.si_sdr == pytest.approx(table.tracks["model"][name].si_sdr, abs=0.05)
    # An evaluation without excerpts does not list those of an earlier one.
    evaluate_drums(corpus, tmp_path, baselines=False)
    assert json.loads((tmp_path / "scores.json").read_text())["excerpts"] == {}


def test_the_excerpt_in_which_the_target_is_loudest():
    rate = 100
    target = np.full((2, 40 * rate), 0.1)
    target[1, 2130:3330] = 0.5
    assert excerpts.loudest_excerpt(target, rate) == slice(2150, 3350)
    assert excerpts.loudest_excerpt(target[:, :500], rate) == slice(0, 500)


def test_excerpts_beyond_full_scale_keep_their_shape_and_their_ratios(tmp_path):
    rng = np.random.default_rng(2)
    waves = {
        name: rng.normal(0, scale, (2, RATE)).astype(np.float32)
        for name, scale in zip(excerpts.SIGNALS, (1, 0.5, 0.7), strict=False)
    }
    excerpts.write(tmp_path, [("song", waves, RATE)])
    read = excerpts.read(tmp_path, "song")
    peak = np.abs(waves["mixture"]).max()
    assert peak > 3
    for name, wave in waves.items():
        np.testing.assert_allclose(read[name], wave / peak, atol=2**-15)


def test_the_choice_of_songs_is_the_same_for_all_models():
    rng = np.random.default_rng(0)
    target, accompaniment = rng.standard_normal((2, 1, 800))
    chosen = []
    for estimated in (target + 0.1 * accompaniment, accompaniment):
        scores = {}
        for gain in (3, 1, 5, 2, 4):
            reference = {"target": gain * target, "accompaniment": accompaniment}
            scores[f"gain {gain}"] = score_track(reference, {"target": estimated, "accompaniment": accompaniment}, RATE)
        chosen.append([excerpts.choose(scores, number) for number in (0, 1, 2, 5, 9)])
    every = [f"gain {gain}" for gain in (1, 2, 3, 4, 5)]
    assert chosen[0] == chosen[1] == [[], ["gain 3"], ["gain 2", "gain 4"], every, every]


@pytest.mark.slow
@pytest.mark.parametrize(("songs", "has_interval"), [(1, False), (2, True)])
def test_a_single_song_gives_no_interval(songs, has_interval):
    def evaluated(label: str, improvement: float) -> Evaluated:
        tracks = {f"Song {number}": {"si_sdr_improvement": improvement + number} for number in range(songs)}
        return Evaluated(Path(label), Path(label), label, {"methods": {"model": {"tracks": tracks}}}, [])

    told = _paired(evaluated("a", 1.0), evaluated("b", 2.5))
    assert told.startswith("b − a: SI-SDR improvement +1.50 dB")
    assert ("interval" in told) == has_interval


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path, capsys):
    scores = json.loads((runs[0] / "evaluation" / "scores.json").read_text())
    other = tmp_path / "other" / "evaluation" / "scores.json"
    other.parent.mkdir(parents=True)

    def refused(**changes: Any) -> str:
        other.write_text(json.dumps(scores | changes))
        assert main(["compare", str(runs[0]), str(tmp_path / "other"), "-o", str(tmp_path / "page.html")]) == 1
        return capsys.readouterr().err

    assert "the target is vocals in the first and bass + drums in the second" in refused(target=["bass", "drums"])
    assert "the split is test in the first and validation in the second" in refused(split="validation")

    def without(method: dict[str, Any], name: str) -> dict[str, Any]:
        tracks = {each: track for each, track in method["tracks"].items() if each != name}
        return method | {"tracks": tracks, "num_tracks": len(tracks)}

    methods = scores["methods"]
    fewer = {name: without(method, NAMES[1]) for name, method in methods.items()}
    assert f"{NAMES[1]} is scored in only one of them (songs that differ: 1)" in refused(methods=fewer)
    model, track = methods["model"], methods["model"]["tracks"][NAMES[1]] | {"si_sdr_improvement": 0.0}
    louder = methods | {"model": model | {"tracks": model["tracks"] | {NAMES[1]: track}}}
    assert f"{NAMES[1]} is not the same song in both" in refused(methods=louder)
    other.unlink()
    assert main(["compare", str(runs[0]), str(tmp_path / "other")]) == 1
    assert f"`jaxpu evaluate {tmp_path / 'other'} CORPUS --report`" in capsys.readouterr().err
    for number in (1, 11):
        assert main(["compare", *[str(runs[0])] * number, "-o", str(tmp_path / "page.html")]) == 2
        assert f"Give 2 to 10 evaluated runs: jaxpu compare RUN RUN... -o PAGE. These are {number}." in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_scores_of_a_version_without_a_band_above_are_named(corpus, tmp_path):
    runs = [tmp_path / "new", tmp_path / "old"]
    for run in runs:
        evaluate_drums(corpus, run / "evaluation", baselines=False)
        path = run / "evaluation" / "scores.json"
        scores = json.loads(path.read_text()) | {"band_above": "Above 4 kHz, one gain."}
        if run.name == "old":
            del scores["band_above"]
        path.write_text(json.dumps(scores))
    write_comparison(runs, tmp_path / "page.html", progress=False)
    page = (tmp_path / "page.html").read_text()
    assert page.count("Above 4 kHz, one gain.") == 1
    assert "B: scored by an earlier version, which put nothing there." in page
    write_comparison([runs[0], runs[0]], tmp_path / "page.html", progress=False)
    assert "earlier version" not in (tmp_path / "page.html").read_text()


@pytest.mark.browser
def test_runs_without_excerpts_and_without_a_log(browser, corpus, tmp_path):
    run = tmp_path / "silent"
    evaluate_drums(corpus, run / "evaluation", baselines=False)
    scores = run / "evaluation" / "scores.json"
    scores.write_text(json.dumps(json.loads(scores.read_text()) | {"band_above": "Above 4 kHz, one gain."}))
    write_comparison([run, run], tmp_path / "page.html", progress=False)
    open_page(browser, tmp_path / "page.html")
    text = browser.find_element(By.CSS_SELECTOR, "body").text
    assert text.count(f"{run} has no excerpts: jaxpu evaluate {run} CORPUS --report writes them.") == 2
    assert "B − A: SI-SDR improvement +0.00 dB" in text
    assert text.count("Above 4 kHz, one gain.") == 1
    headings = [heading.text for heading in browser.find_elements(By.CSS_SELECTOR, "h2")]
    assert headings == ["Scores", "Songs", "Listen and look"]
