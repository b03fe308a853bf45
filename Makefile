# Everything runs in .venv, which `setup` makes; the other targets call it when it is missing or out of date.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SHARED ?= ../shared
JOBS ?= 2

.PHONY: setup demo test test-oldest fuzz reliability lint docs bench bench-quick gpu gpu-rehearsal agree agree-full agree-256 agree-challenge agree-more networks judged-sets train-nano train-nano-smoke fit-smoke release-tools matrix release-check sbom clean

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "damlpips needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[all,pyiqa,test,docs]'
	touch $(READY)

DEMO := jpeg_q30 jpeg_q8 blur_1.5 noise_15
PAPER := damlpips psnr ssim ms-ssim piq:fsim
demo: $(READY)
	$(BIN)/damlpips score docs/demo/landscape.png docs/demo/landscape
	$(BIN)/damlpips score docs/demo/pebbles.png docs/demo/pebbles
	$(BIN)/damlpips score docs/demo/still_life.png docs/demo/still_life
	mkdir -p build
	$(BIN)/damlpips map docs/demo/pebbles.png docs/demo/pebbles/jpeg_q8.jpg -o build/map.png
	$(BIN)/python docs/demo/methods.py build/demo
	$(BIN)/damlpips score build/demo/reference $(foreach m,$(DEMO),--method $(m)=build/demo/$(m)) $(PAPER:%=--metric %) -o build/scores.csv --overwrite
	$(BIN)/damlpips report build/scores.csv -o build/report.html --title "Demo"
	$(BIN)/damlpips table build/scores.csv --latex --intervals -o build/table.tex
	$(BIN)/damlpips table build/scores.csv

# A file's tests stay in one process: they share real processes that they have started. Files start in the order of
# tests/conftest.py.
test: lint
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
	$(MAKE) test-oldest

# The metrics on the oldest torchmetrics, and the names in pyiqa on the oldest pyiqa, that pyproject.toml allows; skipped
# where they cannot be downloaded.
OLDEST := $(shell sed -n 's/.*"torchmetrics>=\([0-9.]*\)".*/\1/p' pyproject.toml)
OLDEST_PYIQA := $(shell sed -n 's/.*"pyiqa>=\([0-9.]*\)".*/\1/p' pyproject.toml)
AT := build/torchmetrics-$(OLDEST)
PYIQA_AT := build/pyiqa-$(OLDEST_PYIQA)
test-oldest: $(READY)
	@test -d $(AT) || $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(AT) torchmetrics==$(OLDEST) \
		|| echo "torchmetrics $(OLDEST) cannot be installed: its tests are skipped" >&2
	@test ! -d $(AT) || PYTHONPATH="$$PWD/$(AT)" TORCHMETRICS=$(OLDEST) $(BIN)/pytest -n $(JOBS) --dist loadfile \
		tests/adapters/torchmetrics tests/properties/test_rank_patterns.py tests/distributed/test_ranks.py
	@test -d $(PYIQA_AT) || $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(PYIQA_AT) \
		pyiqa==$(OLDEST_PYIQA) || echo "pyiqa $(OLDEST_PYIQA) cannot be installed: its tests are skipped" >&2
	@test ! -d $(PYIQA_AT) || PYTHONPATH="$$PWD/$(PYIQA_AT)" PYIQA=$(OLDEST_PYIQA) $(BIN)/pytest tests/adapters/test_pyiqa.py

# Thousands of new examples for each test of tests/fuzz: some fifteen minutes.
fuzz: $(READY)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/pytest tests/fuzz --timeout 3600

# What goes wrong with long runs, done on purpose: an hour on two idle cores, as root, since two parts mount a small disk.
# One part: make reliability RELIABILITY=kill
RELIABILITY ?= kill disk folder read-only clock pairs updates damaged upstream
reliability: $(READY)
	@for part in $(RELIABILITY); do OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reliability $$part || exit; done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(READY)
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# Published values, then speed and memory of every backbone, size and batch: hours on two cores. What was measured is
# kept; a run that was stopped goes on where it was. On a GPU: make bench BENCH='--device cuda'
BENCH ?=
bench: $(READY)
	@test -d $(SHARED)/golden || { echo "no published images at $(SHARED)/golden: make bench SHARED=FOLDER" >&2; exit 2; }
	$(BIN)/python benchmarks/published.py $(SHARED)
	$(BIN)/python benchmarks/references.py
	$(BIN)/python -m benchmarks.bench.roofline
	mkdir -p build/bench
	$(BIN)/python -m benchmarks.bench --json build/bench/results.json --markdown build/bench/tables.md \
		--plot build/bench/plot.svg $(BENCH)

# The default backbone and AlexNet at one size, no file needed: less than three minutes on two idle cores.
bench-quick: $(READY)
	$(BIN)/python -m benchmarks.bench --backbones alex nano --sizes 256 --batches 1 8 --budget 5 $(BENCH)

# Everything that takes a GPU: tests, speed, roofline, profiles, in seven minutes at most. It installs nothing; it needs
# torch, torchvision, torchmetrics, pytest and hypothesis, and lpips or its wheel in a folder: make gpu GPU='--wheels FOLDER'
GPU ?=
GPU_PYTHON ?= $(or $(wildcard $(BIN)/python),python3)
gpu:
	DAMLPIPS_WEIGHTS_DIR=$(SHARED)/weights $(GPU_PYTHON) -m benchmarks.gpu build/gpu $(GPU)

# The same lines on a CPU, with tiny images: some ten minutes.
gpu-rehearsal: $(READY)
	$(BIN)/python -m benchmarks.gpu build/gpu-rehearsal --device cpu

# This package's metrics, and those of others that need no download. pyiqa's psnr, fsim, vsi and gmsd are piq's; its ssim
# and ms_ssim take ten times as long as piq's, its mad fifteen seconds a pair.
AGREE := damlpips damlpips-alex damlpips-squeeze damlpips:2 damlpips-alex:2 damlpips-squeeze:2 lpips-alex lpips-squeeze \
	pyiqa:cw_ssim pyiqa:vif pyiqa:nlpd \
	piq:psnr piq:ssim piq:multi_scale_ssim piq:fsim piq:vsi piq:gmsd piq:multi_scale_gmsd piq:mdsi piq:haarpsi
# DAMLPIPS, and LPIPS with uniform heads, on networks that the package does not have. VGG has Oxford's original weights,
# not torchvision's, so these are not damlpips-vgg and lpips-vgg.
NETWORKS = $(SHARED)/weights/more
EXTRA := $(foreach n,vgg mobilenet efficientnet,$(n) $(n)_2 $(n)_lpips)
MEASURED = $(AGREE) $(if $(wildcard $(NETWORKS)),$(EXTRA:%=benchmarks/extra_networks.py:%))
# The challenge's images have 96 x 96 pixels.
TOO_SMALL_FOR := piq:multi_scale_ssim
# Ten minutes or more for the images of seven sets at their own size: left out there, measured at 256 pixels.
TOO_SLOW_FOR_ALL := pyiqa:cw_ssim pyiqa:vif
AT_OWN_SIZE = $(filter-out $(TOO_SLOW_FOR_ALL),$(MEASURED))
# Processes of one thread each: on a busy machine threads that wait for each other take ten times as long.
RUN_AGREE = OMP_NUM_THREADS=1 DAMLPIPS_WEIGHTS_DIR=$(SHARED)/weights DAMLPIPS_EXTRA_NETWORKS=$(NETWORKS) \
	$(BIN)/damlpips agree
JUDGED := build/judged

# Seven sets and their mean, at the images' own size and at 256 pixels, and the challenge: less than an hour on two idle
# cores. The images' own size takes longest, and half of that goes to VGG. A second run takes the distances from the cache.
agree: judged-sets
	$(MAKE) --jobs $(JOBS) --output-sync=target agree-full agree-256 agree-challenge

# Draws the images of two sets again: a minute or two, once.
judged-sets: $(READY)
	@test -d $(SHARED)/judged || { echo "no judged sets at $(SHARED)/judged: make agree SHARED=FOLDER" >&2; exit 2; }
	$(BIN)/python benchmarks/judged_sets.py $(SHARED) $(JUDGED)

agree-full: judged-sets
	$(RUN_AGREE) $(JUDGED)/seven $(AT_OWN_SIZE:%=--metric %)

agree-256: judged-sets
	$(RUN_AGREE) $(JUDGED)/seven --shorter-side 256 $(MEASURED:%=--metric %)

agree-challenge: $(READY)
	$(RUN_AGREE) --challenge $(SHARED)/challenge $(patsubst %,--metric %,$(filter-out $(TOO_SMALL_FOR),$(MEASURED)))

# What is not in the mean: 8,400 comparisons of two pairs of raid's images, and tid_resynth. About an hour.
agree-more: judged-sets
	$(RUN_AGREE) $(JUDGED)/more $(AT_OWN_SIZE:%=--metric %)

# The comparison of networks of the LPIPS paper: make networks SETS=dataset/2afc/val COMPARE='--network timm:resnet18'
SETS ?= $(JUDGED)/seven
COMPARE ?=
networks: $(READY) $(if $(filter $(JUDGED)/%,$(SETS)),judged-sets)
	OMP_NUM_THREADS=1 $(if $(wildcard $(SHARED)/weights),DAMLPIPS_WEIGHTS_DIR=$(SHARED)/weights) \
		$(BIN)/python benchmarks/networks.py $(SETS) $(COMPARE)

# The backbone that is part of the package, from photographs and the teachers' weights: an hour on two cores. Goes on
# where it was stopped. With glibc's own limits, half of the time goes into getting memory back from the system.
train-nano: $(READY)
	@test -d $(SHARED)/images || { echo "no photographs at $(SHARED)/images: make train-nano SHARED=FOLDER" >&2; exit 2; }
	MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_MMAP_THRESHOLD_=8000000000 DAMLPIPS_WEIGHTS_DIR=$(SHARED)/weights \
		$(BIN)/python -m training.nano $(SHARED)/images --processes $(JOBS)

# The same recipe in a minute, from the demo's pictures, with nano itself as the teacher: it needs nothing from elsewhere.
train-nano-smoke: $(READY)
	$(BIN)/python -m training.nano docs/demo --teachers nano --shards 2 --items 8 --steps 80 --batch 4 \
		--processes $(JOBS) --work build/nano-smoke --out build/nano-smoke/trained.safetensors

# A fit from end to end on 5,000 made-up choices in BAPPS's layout: about a minute on an idle core.
SMOKE := build/fit-smoke
fit-smoke: $(READY)
	rm -rf $(SMOKE)
	$(BIN)/python benchmarks/judged_patches.py make $(SMOKE)/patches --choices 5000
	$(BIN)/damlpips fit $(SMOKE)/patches/2afc/train --backbone nano --learning-rate 0.01 --workers $(JOBS) \
		--cache $(SMOKE)/cache --checkpoints $(SMOKE)/run -o $(SMOKE)/heads.safetensors

release-tools: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[release]'

# The wheel with Python 3.10 to 3.14, as found, and the oldest and newest releases that it allows, each in an environment of
# its own: hours and gigabytes. Goes on where it was stopped; make matrix MATRIX='--python python3.10 --packages oldest'
MATRIX ?=
matrix: release-tools
	rm -rf build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel .
	$(BIN)/python release/matrix.py --wheel build/wheel/*.whl $(MATRIX)

# A dry run of a release; leaves the wheel and the sdist in dist/
release-check: release-tools
	$(BIN)/python release/check.py

# What comes with an installed wheel, as CycloneDX, in dist/
sbom: release-tools
	$(BIN)/python release/sbom.py

clean:
	rm -rf $(VENV) docs/_build dist build
