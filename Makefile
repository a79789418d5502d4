# Every target starts from nothing (Python 3.11 to 3.13 and make) and is quick the second time.
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The first interpreter that the locked Paddle has a wheel for.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
CONFIG ?= config.yaml

# What `make bench` compares with has libraries of its own, which would spoil ours.
PEERS := .bench/peers
BAD_PADDLE := 3.3.1

.PHONY: run serve test test-long screenshots test-systemd test-openvino test-cluster test-container test-heic test-clients fuzz-http openvino heic cluster bench check format lock models install uninstall clean help
.DELETE_ON_ERROR:

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: models ## set everything up and watch ./inbox
	@mkdir -p inbox
	@# 75 means: start me again. A service manager does that; here it is this loop.
	@while :; do $(BIN)/ocr-watcher run -c $(CONFIG); code=$$?; [ $$code -eq 75 ] || exit $$code; done

serve: models ## set everything up, watch ./inbox and serve over HTTP; prints the address
	@mkdir -p inbox
	@$(BIN)/python -m ocr_watcher.service.together serve $(CONFIG)

test: $(INSTALLED) ## run the tests with the real engines
	@$(BIN)/ocr-watcher models pull --all
	$(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: $(INSTALLED) ## run the tests that take minutes: kills, floods, traces
	@$(BIN)/ocr-watcher models pull --all
	$(BIN)/python -m pytest -m long --ignore tests/test_container.py $(ARGS)

test-systemd: $(INSTALLED) ## run the shipped unit under a real systemd (root, systemd-nspawn)
	$(BIN)/python -m pytest tests/systemd $(ARGS)

test-openvino: $(INSTALLED) .bench/openvino/.installed ## run the tests of ocr.provider: openvino
	@$(BIN)/ocr-watcher models pull PP-OCRv6_small PP-OCRv6_tiny
	PYTHONPATH=.bench/openvino $(BIN)/python -m pytest tests/test_inference.py tests/test_cli.py::test_a_ceiling_is_never_passed_and_never_fatal $(ARGS)

test-heic: $(INSTALLED) .bench/heic/.installed ## run the tests of HEIC photos
	PYTHONPATH=.bench/heic $(BIN)/python -m pytest tests/test_helped.py $(ARGS)

test-cluster: $(INSTALLED) .bench/cluster/.installed ## run the tests of several machines (redis-server)
	PYTHONPATH=$(CURDIR)/.bench/cluster $(BIN)/python -m pytest tests/test_cluster.py tests/test_cluster_chaos.py $(ARGS)

test-container: $(INSTALLED) ## build the container image and run it (root, buildah, mmdebstrap, redis-server)
	$(BIN)/python -m pytest -s tests/test_container.py $(ARGS)

screenshots: $(INSTALLED) ## make the pictures of page and terminal in docs/ anew
	@$(BIN)/ocr-watcher models pull --all
	$(BIN)/python benchmarks/terminal_picture.py docs/terminal.svg
	SCREENSHOTS=docs $(BIN)/python -m pytest -q tests/test_page.py -k receipt

test-clients: $(INSTALLED) .bench/clients/.installed ## run HTTP clients that are not among our libraries
	PYTHONPATH=.bench/clients $(BIN)/python -m pytest tests/test_http_strangers.py $(ARGS)

fuzz-http: $(INSTALLED) .bench/schemathesis/.installed ## let Schemathesis loose on the HTTP server
	$(BIN)/python benchmarks/fuzz_http.py .bench/schemathesis/bin/schemathesis $(ARGS)

openvino: $(INSTALLED) ## add OpenVINO to .venv: faster where the processor computes in bf16
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements-openvino.lock
	@$(BIN)/ocr-watcher doctor -c $(CONFIG) | grep provider

cluster: $(INSTALLED) ## add what several machines need to .venv: Celery and the client of Redis
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements-cluster.lock

heic: $(INSTALLED) ## add the decoder of HEIC photos to .venv; its wheels are GPLv2
	@echo "pillow-heif is licensed BSD-3-Clause, but its wheels hold x265 and with it are GPLv2: mind that when you pass them on"
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: -r requirements-heic.lock
	@$(BIN)/ocr-watcher doctor -c $(CONFIG) | grep heic

bench: .bench/openvino/.installed .bench/plot/.installed $(INSTALLED) $(PEERS)/.installed .bench/paddle-$(BAD_PADDLE)/.installed ## compare with other OCR programs; CORPUS=folder, ARGS="--only a,b"
	@$(BIN)/ocr-watcher models pull --all
	PYTHONPATH=.bench/plot $(BIN)/python benchmarks/compare.py $(if $(CORPUS),--corpus "$(CORPUS)") $(ARGS)

check: $(INSTALLED) ## lint, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

format: $(INSTALLED) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

models: $(INSTALLED) ## fetch and verify the configured model
	@$(BIN)/ocr-watcher models pull -c $(CONFIG)

install: ## put the systemd service in place (as root)
	systemd/install.sh install

uninstall: ## take it away; ARGS=--purge also removes configuration, inbox, state and logs
	systemd/install.sh uninstall $(ARGS)

lock: $(INSTALLED) ## resolve the dependencies anew
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--extra dev --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-deps \
		--custom-compile-command "make lock" requirements-openvino.in -o requirements-openvino.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-deps \
		--custom-compile-command "make lock" requirements-heic.in -o requirements-heic.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-deps \
		--custom-compile-command "make lock" requirements-cluster.in -o requirements-cluster.lock

clean: ## remove what the targets made, but no image, result or log
	rm -rf $(VENV) $(PEERS) .bench/openvino .bench/cluster .bench/heic .bench/plot .bench/paddle-* .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed (paddlepaddle 3.2.2 has no wheels for others)"; exit 69; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "On Debian: apt install python3-venv"; rm -rf $(VENV); exit 69; }
	@echo "installing the locked dependencies (about 1.7 GB, a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(PEERS)/.installed: benchmarks/peers.txt
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@echo "installing the programs to compare with (about 0.5 GB)"
	@$(PEERS)/bin/python -m pip install --quiet --only-binary :all: -r benchmarks/peers.txt
	@touch $@

# Only they: what they need is in $(VENV).
.bench/clients/.installed: | $(INSTALLED)
	@rm -rf $(@D)
	@$(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --target $(@D) \
		tika==3.3.2 tika-client==1.0.0 paddleocr-mcp==0.8.5
	@touch $@

# An environment of its own: its libraries must not be taken for ours.
.bench/schemathesis/.installed: | $(INSTALLED)
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --only-binary :all: 'schemathesis==4.32.5'
	@touch $@

.bench/openvino/.installed: requirements-openvino.lock | $(INSTALLED)
	@rm -rf $(@D)
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: \
		--target $(@D) -r requirements-openvino.lock
	@touch $@

.bench/heic/.installed: requirements-heic.lock | $(INSTALLED)
	@rm -rf $(@D)
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: \
		--target $(@D) -r requirements-heic.lock
	@touch $@

.bench/cluster/.installed: requirements-cluster.lock | $(INSTALLED)
	@rm -rf $(@D)
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary :all: \
		--target $(@D) -r requirements-cluster.lock
	@touch $@

# Benchmarks draw with it. Not in $(VENV): PaddleX would import it at every start.
.bench/plot/.installed: | $(INSTALLED)
	@rm -rf $(@D)
	@$(BIN)/python -m pip install --quiet --only-binary :all: --target $(@D) 'matplotlib>=3.10,<4' 'numpy<2.5'
	@touch $@

# Only Paddle itself: what it needs is in $(VENV), in front of which compare.py puts this folder.
.bench/paddle-$(BAD_PADDLE)/.installed: | $(INSTALLED)
	@echo "installing paddlepaddle $(BAD_PADDLE) (0.7 GB)"
	@rm -rf $(@D)
	@$(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --target $(@D) paddlepaddle==$(BAD_PADDLE)
	@touch $@
