# The two commands a newcomer needs: make train, make test. Everything else is for working on fastpg.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := setup.py pyproject.toml $(wildcard csrc/* fastpg/*.pyx)
# Tests are shared among the processors.
SPLIT := --numprocesses auto --dist worksteal
# What a shell sets for another Python would stand before what is installed here.
unexport PYTHONHOME PYTHONPATH
CFLAGS_C := -std=c11 -O1 -g -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp-simd -Wall -Wextra -Werror

.PHONY: train test peers lint types sanitize instructions instructions-update bench bench-peers bench-keep bench-compare \
	bench-test roofline accuracy results check clean

train: $(STAMP)
	$(BIN)/fastpg train CartPole-v1 --algo ppo --psi gae --seed 0

test: $(STAMP)
	$(BIN)/python -m pytest $(SPLIT)

# An editable install: edits to Python are live, edits to csrc/ and .pyx build again on the next make.
$(STAMP): $(SOURCES)
	$(PYTHON) -c 'import sys; sys.exit("fastpg needs Python 3.11 or newer: make PYTHON=python3.x" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)  # pip comes last: without it the venv is none, or half of one
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# Other libraries that tests and benches compare with or run in, three minutes; without them those are skipped.
peers: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[dev,peers,envpool,video]'

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# csrc/ without Python on every instruction set of this machine: bounds and undefined behaviour, then races.
ASAN := -fsanitize=address,undefined -fno-sanitize-recover=all
sanitize:
	mkdir -p build
	$(CC) $(CFLAGS_C) $(ASAN) -Icsrc -c csrc/dispatch.c -o build/dispatch-asan.o
	for name in smoke smoke_objectives smoke_nets; do \
		$(CC) $(CFLAGS_C) $(ASAN) -Icsrc -o build/$$name tests/$$name.c build/dispatch-asan.o csrc/threads.c -lm -pthread && \
		./build/$$name || exit 1; done
	$(CC) $(CFLAGS_C) -fsanitize=thread -Icsrc -c csrc/dispatch.c -o build/dispatch-tsan.o
	$(CC) $(CFLAGS_C) -fsanitize=thread -Icsrc -o build/smoke-threads tests/smoke.c build/dispatch-tsan.o csrc/threads.c -lm -pthread
	./build/smoke-threads large

# Instructions a kernel executes, counted under valgrind, against benches/instructions.json. Skipped without valgrind.
instructions: $(STAMP)
	$(BIN)/python benches/instructions.py

instructions-update: $(STAMP)
	$(BIN)/python benches/instructions.py --update

bench: $(STAMP)
	mkdir -p build
	$(BIN)/python -m pytest benches --ignore=benches/test_peers.py --benchmark-only --benchmark-quiet --benchmark-json=build/bench.json
	$(BIN)/python benches/table.py build/bench.json

bench-peers: $(STAMP)
	mkdir -p build
	$(BIN)/python -m pytest benches/test_peers.py --benchmark-only --benchmark-quiet --benchmark-json=build/peers.json
	$(BIN)/python benches/peer_table.py build/peers.json --page docs/peers.md

# The medians of the last make bench, into a small file to commit. Of a tree without changes, on a machine with nothing else to do.
bench-keep: $(STAMP)
	$(BIN)/python benches/table.py build/bench.json --keep benches/results

# make bench-compare BASE=main ARGS='--kernel gae --threads 1'
bench-compare: $(STAMP)
	$(BIN)/python benches/compare.py $(BASE) $(ARGS)

bench-test: $(STAMP)
	$(BIN)/python -m pytest benches --benchmark-disable $(SPLIT)

# docs/speed.md with its picture, in four minutes of a quiet machine; docs/accuracy.md, in some ten.
roofline: $(STAMP)
	$(BIN)/python benches/roofline.py

accuracy: $(STAMP)
	$(BIN)/python benches/accuracy.py --write docs/accuracy.md --processes 2

# docs/results.md: what training reaches, over seeds; hours for all of it. make results ARGS='--only CartPole-v1.ppo --seeds 3'
results: $(STAMP)
	$(BIN)/python benches/results.py $(ARGS)

check: lint types sanitize instructions test bench-test

clean:
	rm -rf build dist fastpg/*.so *.egg-info
