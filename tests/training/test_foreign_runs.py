"""Folders of runs that other programs wrote, or damage: one sentence that names the file and the field."""

import dataclasses
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.errors import UserError
from jaxpu.cli.__main__ import main
from jaxpu.config import Config, ConfigError, PUConfig
from jaxpu.config_files import from_json, load_config, to_json
from jaxpu.estimation.resolve import with_estimates
from jaxpu.training.grid import make_grid
from jaxpu.training.kept_config import check_config, keep_config
from jaxpu.training.loop import ALL_STEPS_DONE
from jaxpu.training.sweep_table import make_row

CONFIG = Config(objective=PUConfig(class_prior="estimate"))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ((), [], "is []"),
        (("data", "patch", "sample_rate"), "44100", "data.patch.sample_rate is '44100'"),
        (("data", "patch", "clip_samples"), 10**15, "PatchSpec.clip_samples is 1000000000000000"),
        (("model", "blocks"), 10**6, "PatchCNNConfig.blocks is 1000000"),
        (("train", "batch_size"), 8.5, "train.batch_size is 8.5"),
        (("train", "seed"), 10**30, "train.seed is 1"),
        (("objective", "kind"), None, "objective.kind is None"),
    ],
)
def test_a_field_of_a_runs_config_that_is_wrong_is_named(
    json_damage: Any, tmp_path: Path, path: tuple[Any, ...], value: Any, named: str
) -> None:
    file = tmp_path / "config.json"
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)  # Without one, the config does not matter.
    file.write_text(json.dumps(json_damage.changed(to_json(CONFIG), path, value)))
    with pytest.raises(ConfigError) as caught:
        check_config(CONFIG, file)
    assert str(file) in str(caught.value)
    assert named in str(caught.value)


def test_a_damaged_config_of_a_run_without_steps_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\xff\xfe")
    check_config(CONFIG, file)
    keep_config(CONFIG, file)
    assert from_json(json.loads(file.read_text())) == CONFIG


@pytest.mark.parametrize("content", ['{"kind": "vite", "data": 1}', '{"compilerOptions": {}}', "[1, 2]"])
def test_the_config_of_another_program_is_not_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json: is not the config of a run, and would be replaced\. Choose"):
        check_config(CONFIG, file)


def test_every_value_of_a_config_in_turn_is_refused(json_damage: Any, tmp_path: Path) -> None:
    """A sample of all damage by `tests.conftest.JsonDamage`; the seed is printed."""
    seed = random.randrange(2**32)
    print("seed", seed)
    file = tmp_path / "config.json"
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    for path, value, foreign in random.Random(seed).sample(list(json_damage.variants(to_json(CONFIG))), 300):
        file.write_text(json.dumps(foreign))
        begin, message = time.process_time(), str(file)
        try:
            check_config(CONFIG, file)
        except UserError as error:
            message = str(error)
        assert str(file) in message, (path, value)
        assert time.process_time() - begin < 2, (path, value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[]", "is []"),
        ("{", "is damaged"),
        ("{}", "class_prior is missing"),
        ('{"class_prior": 0.5}', "class_prior is 0.5"),
        ('{"class_prior": {"number": "half"}}', "class_prior.number is 'half'"),
        ('{"class_prior": {"number": 7}}', "PUConfig.class_prior is 7"),
        ('{"class_prior": {"number": NaN}}', "class_prior.number is nan"),
    ],
)
def test_estimates_that_are_none_are_named(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "estimates.json"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        with_estimates(CONFIG, None, tmp_path)  # type: ignore[arg-type]  # The file exists: no data are needed.
    assert str(file) in str(caught.value)
    assert named in str(caught.value)


def test_a_row_of_a_sweep_needs_the_scores_that_select(tmp_path: Path) -> None:
    train = dataclasses.replace(CONFIG.train, select_by="si_sdr_improvement")
    config = Config(objective=PUConfig(), train=train)
    ((point,),) = make_grid(config, {"class_prior": [0.5]}, 1)
    (tmp_path / point.name).mkdir()
    log = tmp_path / point.name / "metrics.jsonl"
    log.write_text('{"kind": "evaluate", "step": 2, "loss": 0.5}\n')
    assert "step" not in make_row(point, ALL_STEPS_DONE, tmp_path)
    log.write_text('{"kind": "evaluate", "step": 2, "loss": 0.5, "si_sdr_improvement": 1.0}\n')
    assert make_row(point, ALL_STEPS_DONE, tmp_path)["step"] == 2


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--data.patch.sample-rate", "1000000000000", "sample_rate"),
        ("--data.patch.sample-rate", "16000.5", "16000.5"),
        ("--model.blocks", "1000000", "blocks"),
        ("--train.learning-rate", "nan", "learning_rate"),
        ("--data.patch.n-fft", "-2", "n_fft"),
    ],
)
def test_options_out_of_bounds_are_named(capsys: pytest.CaptureFixture[str], option: str, value: str, named: str) -> None:
    try:
        status = main(["train", "baseline", option, value])
    except SystemExit as end:
        status = int(str(end.code))
    printed = capsys.readouterr()
    assert status == 2
    assert named in printed.err + printed.out
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("config = Config(data=DataConfig(patch=PatchSpec(sample_rate=16000.5)))", "PatchSpec.sample_rate is 16000.5"),
        ("config = Config(data=DataConfig(target='vocals'))", "DataConfig.target is 'vocals'"),
        ("config = Config(data={})", "Config.data is {}"),
        ("config = Config(train=TrainConfig(num_steps='many'))", "TrainConfig.num_steps is 'many'"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("config = Config(", "SyntaxError"),
        ("x = '\ud800'", ""),
    ],
)
def test_config_files_with_other_types_are_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "mine.py"
    imports = "from jaxpu.config import Config, TrainConfig\nfrom data_pipeline.config import DataConfig, PatchSpec\n"
    path.write_bytes((imports + text + "\n").encode(errors="surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_a_config_in_another_encoding_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    text = '# -*- coding: latin-1 -*-\n"""Für mich."""\nfrom jaxpu.config import Config\n\nconfig = Config()\n'
    path.write_bytes(text.encode("latin-1"))
    assert main(["info", str(path)]) == 0
    assert "Für mich." in capsys.readouterr().out
