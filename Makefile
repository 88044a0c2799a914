# No logic here, only commands. `make demo` and `make test` need Python >= 3.11 and nothing else.
PYTHON ?= python3
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE    # every process would compile all sources anew: a second each

.PHONY: demo test check fuzz faults arm lowest bench figures docs clean

demo: .venv/.installed-user         ## install, then compare groupings of every kind on the digits: report/index.html
	$(BIN)/regroup compare

test: .venv/.installed-dev          ## install, then run all tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/.installed-dev         ## style, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

fuzz: .venv/.installed-dev          ## the long runs (hours): N=100000 problems a template, N/10 models; every network
	REGROUP_FUZZ=$(or $(N),100000) $(BIN)/python -m pytest $$(grep -rl REGROUP_FUZZ tests --include='test_*.py')

faults: .venv/.installed-dev        ## the long fault runs (hours, N=20: a tenth): kills, forks, damage, every write interrupted
	REGROUP_FAULTS=$(or $(N),200) $(BIN)/python -m pytest tests/faults --durations=0 --durations-min=1

arm:                                ## AArch64 in an emulator, in .arm: kernels, operators, a network of each family
	.ci/arm $(N)

lowest: .venv/.installed-dev        ## the tests with the oldest release allowed of every dependency, in .lowest
	$(BIN)/pip install -q uv
	$(BIN)/uv venv -q --clear .lowest
	$(BIN)/uv pip install -q --python .lowest/bin/python --resolution lowest-direct -e ".[dev,onnx]"
	.lowest/bin/python -m pytest -n 2 --dist worksteal

bench: .venv/.installed-dev         ## every benchmark; run it on a quiet machine
	$(BIN)/pip install -q -e ".[bench]"
	$(BIN)/python -m benchmarks

figures: .venv/.installed-dev       ## what pages and README say of time, measured here: on a quiet machine; goes on if cut off
	$(BIN)/python -m docs.times
	$(BIN)/regroup compare --all --seeds 3 --out build/compare
	$(BIN)/python -m docs.comparison build/compare/comparison.json
	$(BIN)/python -m docs.generate

docs: .venv/.installed-dev          ## the site: build/site/index.html; LINKS=--outside: other sites are asked too
	$(BIN)/pip install -q -e ".[docs]"
	$(BIN)/python -m docs.generate
	$(BIN)/python -m sphinx -q -W --keep-going -d build/doctrees docs build/site
	$(BIN)/python -m docs.links build/site $(LINKS)

clean:
	rm -rf .venv .lowest .arm build report runs

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed-user: .venv/bin/python pyproject.toml
	$(BIN)/pip install -q -e .
	touch $@

.venv/.installed-dev: .venv/bin/python pyproject.toml
	$(BIN)/pip install -q -e ".[dev,onnx]"
	touch $@ .venv/.installed-user
