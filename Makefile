# The commands of a checkout.  `make` lists them.
#
# Everything below runs in virtual environments made from requirements.lock, never in the Python that is given.

PYTHON ?= python3
DEMO_ARGS ?=
CORPUS ?=
RESULTS_ARGS ?=
TEST_ARGS ?=
FAULTS_ARGS ?=
# Tests at a time, whole files each; 0: one after the other in one process, for a debugger.
TEST_WORKERS ?= 2
LOCK_ARGS ?=
TORCH ?= torch==2.13.0

# Tests that also run on the other Pythons and on the lowest versions: data, configs, STFT, losses, and the way of a user (train,
# kill, resume, separate, a notebook).  On the lowest versions, the training steps of all objectives on several devices too.
LEG_TESTS := tests/data_pipeline/test_prepare.py tests/data_pipeline/test_lazy_tensorflow.py tests/test_config.py \
	tests/core/test_stft.py tests/core/test_losses.py tests/project/test_legs.py

pytest = -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
leg = $(pytest) -m "not slow" $(TEST_ARGS) $(LEG_TESTS)

# A training step frees and takes hundreds of MB: with huge pages it takes a fifth to a third less time
# (docs/performance.md).  `jaxpu train` asks for them itself; tests and benchmarks do not.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# Some containers set this.  Without compiled modules every process takes some 17 s longer to start.
unexport PYTHONDONTWRITEBYTECODE

# uv is a package here like any other: no Python and no tool is downloaded from elsewhere.
export UV_PYTHON_DOWNLOADS := never
UV := .venv-uv/bin/uv

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup ffmpeg chromium renderer demo results bench starter test test-fast test-browser test-colab test-faults lint format types docs test-3.12 test-3.13 test-lowest \
	find-3.11 find-3.12 find-3.13 lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Another Python than python3: make PYTHON=/path/to/python3.12 setup"

setup: ffmpeg .venv/ready ## make .venv from requirements.lock and install ffmpeg (the commands below do it by themselves)

demo: setup ## synthesize a small corpus, train on it, evaluate, separate a song (2 to 10 minutes; DEMO_ARGS=...)
	.venv/bin/jaxpu demo $(DEMO_ARGS)

results: setup ## run the experiments of docs/results.md that have not been run yet (CORPUS=DIR RESULTS_ARGS=...)
	.venv/bin/python benchmarks/run_experiments.py $(CORPUS) $(RESULTS_ARGS)

bench: ffmpeg .venv-bench/ready ## time jaxpu beside torch and librosa, and write the tables of docs/performance.md (30 minutes)
	.venv-bench/bin/python benchmarks/speed.py
	.venv-bench/bin/python benchmarks/layers.py
	.venv-bench/bin/python benchmarks/scaling.py
	.venv-bench/bin/python benchmarks/run_experiments.py --tables

test: setup renderer ## run all tests but those in a browser (TEST_ARGS="-k stft")
	.venv/bin/python $(pytest) -m "not network and not leg and not browser" $(TEST_ARGS)

test-fast: setup renderer ## run the tests that are not marked slow
	.venv/bin/python $(pytest) -m "not slow and not network and not leg and not browser" $(TEST_ARGS)

test-browser: setup chromium ## install chromium, and run the tests of pages in it
	.venv/bin/python -m pytest -m browser $(TEST_ARGS)

test-colab: setup find-3.13 ## check that installing jaxpu in Colab moves none of Colab's packages (needs Python 3.13)
	.venv/bin/python -m pytest -m network $(TEST_ARGS)

test-faults: setup ## give 10,000 damaged or odd files to the commands, for 30 minutes at most (FAULTS_ARGS="--cases 200")
	.venv/bin/python tests/faults $(FAULTS_ARGS)

lint: .venv/ready ## check style and formatting with ruff
	.venv/bin/ruff check
	.venv/bin/ruff format --check

format: .venv/ready ## format the code and fix what ruff can
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

types: .venv/ready ## check types with mypy
	.venv/bin/mypy

docs: .venv/ready ## write the pages of the programming interface, from the docstrings, to build/docs
	.venv/bin/python -m pdoc --docformat google --output-directory build/docs jaxpu data_pipeline
	@echo "Look at build/docs/index.html"

test-3.12: ffmpeg .venv-3.12/ready ## run a selection of the tests on Python 3.12
	.venv-3.12/bin/python $(leg)

test-3.13: ffmpeg .venv-3.13/ready ## run the same selection on Python 3.13
	.venv-3.13/bin/python $(leg)

# Old versions of other packages give warnings that newer ones have fixed.
test-lowest: ffmpeg .venv-lowest/ready ## run the same selection, and test_parallel.py, on Python 3.11 with the lowest versions allowed
	.venv-lowest/bin/python $(leg) -W default
	.venv-lowest/bin/python $(pytest) tests/test_parallel.py -k "eight_devices or clamp" -W default $(TEST_ARGS)

# orbax-checkpoint: jax2onnx asks for less than 0.11.37, but uses nothing of it that has changed (tests/artifacts/test_onnx.py).
# tensorflow-metadata: newer ones name no upper bound but do not load beside the protobuf of tensorflow 2.19.
lock: $(UV) ## resolve the versions of both lock files again (LOCK_ARGS=--upgrade for the newest)
	echo 'orbax-checkpoint>=0.11.28,<1.0' | $(call compile,requirements.lock) --override - --universal --group lint --group docs --group onnx $(LOCK_ARGS)
	echo 'tensorflow-metadata<1.18' | $(call compile,requirements-lowest.lock) --resolution lowest-direct --constraint - --upgrade

# The recipe of the models that come with jaxpu.  A run that was interrupted resumes.  The whole of it in ten minutes:
# make starter STARTER_SONGS="--train 20 --test 4 --seconds 8" STARTER_ARGS="--train.num-steps 4"
STARTER_SONGS := --train 200 --test 12 --seconds 24
STARTER_FONTS := /usr/share/sounds/sf2/FluidR3_GM.sf2 /usr/share/sounds/sf2/MuseScore_General_Full.sf2
STARTER_DESCRIPTION := Trained with the stems of 200 rendered songs of 24 s: instruments of the sound fonts FluidR3 and MuseScore \
	General (MIT licence), words of flite and espeak-ng sung through the WORLD vocoder. No recording of anybody's music was used.
starter: setup renderer ## render songs, train the models that come with jaxpu, score and pack them: runs/starter*.zip (2 hours on a CPU core)
	@for font in $(STARTER_FONTS); do test -f $$font || { $(call apt_install,fluid-soundfont-gm musescore-general-soundfont-lossless); }; done
	.venv/bin/jaxpu synthesize data/starter_songs --renderer fluidsynth $(STARTER_SONGS) --seed 1 --sound-fonts $(STARTER_FONTS)
	.venv/bin/jaxpu prepare rendered_songs --musdb18hq data/starter_songs
	set -e; for seed in 0 1; do train="train rendered_songs --train.batch-size 6 --train.seed $$seed"; \
		.venv/bin/jaxpu $$train --run runs/rendered_songs-$$seed $(STARTER_ARGS); \
		.venv/bin/jaxpu $$train --run runs/starter-$$seed --train.init-from runs/rendered_songs-$$seed \
			--objective.loss phase_sensitive --train.num-steps 1500 --train.learning-rate 1e-3 $(STARTER_ARGS); done
	.venv/bin/jaxpu prepare rendered_songs --musdb18hq data/starter_songs --data.target drums -o data/drums
	.venv/bin/jaxpu train rendered_songs --data.target drums --prepared data/drums --run runs/starter-drums --train.batch-size 6 \
		--objective.loss phase_sensitive --train.num-steps 4000 $(STARTER_ARGS)
	$(call pack_starter,starter,runs/starter-0 runs/starter-1)
	$(call pack_starter,starter-drums,runs/starter-drums)

# $(call pack_starter,NAME,RUNS): pack runs as one model, score it, and pack it again with its scores.
define pack_starter
	.venv/bin/jaxpu export $(2) -o runs/$(1).zip --licence CC0-1.0 --description "$(STARTER_DESCRIPTION)"
	.venv/bin/jaxpu evaluate runs/$(1).zip data/starter_songs
	.venv/bin/jaxpu export $(2) -o runs/$(1).zip --licence CC0-1.0 --description "$(STARTER_DESCRIPTION)" \
		--scores runs/$(1)-evaluation/scores.json
endef

clean: ## remove environments, caches and built packages (not data, runs or the demo)
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

compile = $(uv) pip compile pyproject.toml --group test --extra cpu --quiet --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make lock" --output-file $(1)

# uv does not read pip's settings: it is given the package index that pip uses.
index = $(or $(UV_DEFAULT_INDEX),$(PIP_INDEX_URL),$(shell .venv-uv/bin/python -m pip config get global.index-url 2>/dev/null))
uv = $(if $(index),UV_DEFAULT_INDEX=$(index)) $(UV)

# A Python of version $(1): $(PYTHON), the one on the path, or one of pyenv's.  Empty when there is none.
find_python = $(shell for python in $(PYTHON) python$(1) "$$HOME"/.pyenv/versions/$(1)*/bin/python; do \
	"$$python" -c 'import sys; "%d.%d" % sys.version_info[:2] == "$(1)" or sys.exit(1); print(sys.executable)' 2>/dev/null && break; done)

# $(call environment,PYTHON,LOCK): the environment that the target's name says, from nothing.
define environment
	rm -rf $(@D)
	$(uv) venv --quiet --python $(1) $(@D)
	@echo "Installing $(2) into $(@D) ..."
	$(uv) pip install --quiet --python $(@D)/bin/python --no-deps --require-hashes -r $(2)
	$(uv) pip install --quiet --python $(@D)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@
endef

.venv/ready: requirements.lock pyproject.toml | $(UV)
	$(call environment,"$$($(PYTHON) -c 'import sys; print(sys.executable)')",requirements.lock)

# torch is a peer of the benchmarks alone, and in no lock.
.venv-bench/ready: requirements.lock pyproject.toml | $(UV)
	$(call environment,"$$($(PYTHON) -c 'import sys; print(sys.executable)')",requirements.lock)
	.venv-bench/bin/python -m ensurepip >/dev/null && .venv-bench/bin/python -m pip install --quiet $(TORCH)

.venv-3.12/ready .venv-3.13/ready: .venv-%/ready: requirements.lock pyproject.toml | find-% $(UV)
	$(call environment,$(call find_python,$*),requirements.lock)

.venv-lowest/ready: requirements-lowest.lock pyproject.toml | find-3.11 $(UV)
	$(call environment,$(call find_python,3.11),requirements-lowest.lock)

find-3.11 find-3.12 find-3.13: find-%:
	@test -n "$(call find_python,$*)" || { echo "There is no Python $* here: put a python$* on the PATH."; exit 1; }

# uv itself, at the version and with the hashes of requirements.lock.
$(UV): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "jaxpu's locked versions need Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1): make PYTHON=/path/to/python3.12 ..."; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "'$(PYTHON)' cannot make virtual environments: install its venv module (Debian and Ubuntu: apt-get install python3-venv)."; \
		exit 1; }
	rm -rf .venv-uv
	$(PYTHON) -m venv .venv-uv
	awk '/^[a-z]/ { mine = /^uv==/ } mine' requirements.lock > .venv-uv/requirements.txt
	.venv-uv/bin/python -m pip install --quiet --require-hashes --requirement .venv-uv/requirements.txt
	@touch $@

# $(call apt_install,PACKAGES): where there is apt-get, and the right to use it.
apt_install = if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends $(1); \
	elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then sudo apt-get update -qq && sudo apt-get install -y -qq --no-install-recommends $(1); \
	fi

# musdb, museval and compressed audio need the programs ffmpeg and ffprobe.
ffmpeg:
	@command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null || { $(call apt_install,ffmpeg); }
	@command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null || { \
		echo "jaxpu needs the programs ffmpeg and ffprobe: install your system's ffmpeg package (apt-get install ffmpeg, brew install ffmpeg)."; \
		exit 1; }

# The browser of tests/evaluation/test_html_report.py; the players and voices of rendered songs and of benchmarks/make_speech.py. Tests
# say what to do where this cannot install them.
chromium:
	-@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { $(call apt_install,chromium chromium-driver); }

renderer:
	-@command -v fluidsynth >/dev/null && command -v flite >/dev/null && command -v espeak-ng >/dev/null && \
		test -f /usr/share/sounds/sf2/TimGM6mb.sf2 || { $(call apt_install,fluidsynth timgm6mb-soundfont flite espeak-ng); }
