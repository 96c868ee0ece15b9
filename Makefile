# What a developer and the CI run; every target works from a clean clone.

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.stamp-setup

.PHONY: setup check test test-crash test-model test-ceph test-localstack test-load fuzz demo clean

setup: $(STAMP)

$(STAMP): pyproject.toml contrib/install-system-packages.sh
	sh contrib/install-system-packages.sh
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Several at a time: most of them wait. Sockets need short paths.
test: $(STAMP)
	$(BIN)/pytest --numprocesses 3 --dist worksteal --basetemp "$$(mktemp -d /tmp/s3b.XXXXXX)"

# Thousands of simulated crashes, and real ones; a failure names its seed for CRASH_SEED.
test-crash: $(STAMP)
	CRASH_RUNS=$${CRASH_RUNS:-600} $(BIN)/pytest tests/crash
	KILL_ROUNDS=$${KILL_ROUNDS:-30} FAULTS_LONG=1 $(BIN)/pytest tests/mount/test_kill.py \
	    tests/mount/test_faults.py
	PRUNE_ROUNDS=$${PRUNE_ROUNDS:-10} $(BIN)/pytest tests/mount/test_prune_kill.py

# Long walks of chance on mounts, beside a plain directory; a failure names its seed.
test-model: $(STAMP)
	MODEL_RUNS=$${MODEL_RUNS:-40} MODEL_STEPS=$${MODEL_STEPS:-100} $(BIN)/pytest \
	    tests/mount/test_model.py

# The contract of stores, doctor and mounts on a Ceph of one's own: two minutes.
test-ceph: $(STAMP)
	sh contrib/install-ceph.sh
	TEST_CEPH=1 $(BIN)/pytest --basetemp "$$(mktemp -d /tmp/s3b.XXXXXX)" -k 'ceph or gateway' tests/store tests/cli/test_doctor.py \
	    tests/mount/test_ceph.py

# The same on LocalStack, which verifies every checksum; it gets an environment of its own.
test-localstack: $(STAMP)
	test -x .venv-localstack/bin/python || python3 -m venv .venv-localstack
	.venv-localstack/bin/pip install --quiet 'localstack-core[base-runtime]<4.10' 'cbor2<5.9' \
	    'pyopenssl<25' 'cryptography<45' service_identity
	TEST_LOCALSTACK=$(CURDIR)/.venv-localstack/bin/python $(BIN)/pytest -k localstack \
	    tests/store tests/cli/test_doctor.py

# Many writers at once, a week of nights with crashes, machines in trouble: a quarter of an hour.
test-load: $(STAMP)
	LOAD_LONG=1 $(BIN)/pytest tests/load

# Every decoder under atheris for some seconds each, then with many of Hypothesis' examples.
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet 'atheris>=3.0.0'
	$(BIN)/python -m tests.fuzz.fuzz $${FUZZ_SECONDS:-20}
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-2000} $(BIN)/pytest --timeout=900 tests/fuzz

# Speed, requests and memory beside the peers: make bench ARGS="--work W1,W2 --scale 0.1"
bench: $(STAMP)
	$(BIN)/python -m tests.bench $(ARGS)

demo: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash contrib/demo/demo.sh

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	    .import_linter_cache
	find s3backfs tests -name __pycache__ -type d -prune -exec rm -rf {} +
