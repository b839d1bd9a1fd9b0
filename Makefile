# Two commands set everything up on a fresh Debian machine: `make run` and
# `make test`.  `make help` lists the others.  All of them build into the virtual
# environment $(VENV); what is up to date is not made again.

PYTHON ?= python3
VENV ?= .venv
SKIP ?=
PYTEST_ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DELETE_ON_ERROR:

BIN := $(VENV)/bin
BUILD := build/$(notdir $(VENV))
PIP := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip --disable-pip-version-check
# The package with some of its extras, built in $(BUILD); in CI warnings are errors.
INSTALL = $(PIP) install --quiet --no-build-isolation \
	--config-settings=build-dir="$(BUILD)" \
	$(if $(CI),--config-settings=setup-args=-Dwerror=true)
# pip's downloads are wanted, its "running as root" and version remarks are not.
export PIP_ROOT_USER_ACTION := ignore

PYTEST := $(BIN)/python -m pytest
# In halves that take about as long as each other, and run side by side.
HANDLE_TESTS := tests/uv tests/isolated
LOOP_TESTS := tests/loop tests/cmodule tests/interop
ALLOWLIST := $(wildcard tools/stubtest-allowlist)

SOURCES := meson.build meson.options pyproject.toml README.md LICENSE \
	$(wildcard src/*/meson.build src/*/*.c src/*/*.h) \
	$(wildcard $(addprefix python/uvtulip/,meson.build *.py *.pyi */*.pyi py.typed))

.PHONY: help setup run test test-all setup-system test-system \
	everything newer free-threaded tsan asan debug-alloc leaks conformance interop \
	suites soak fuzz stress bench lint symbols musl docs docs-free clean

help:
	@cat <<'END'
	run          set up, build and serve examples/aiohttp_app.py
	test         set up, build and run every fast test
	test-all     the fast tests on each CPython 3.11, 3.12 and 3.13 found here
	free-threaded  the fast tests without the GIL: PYTHON=python3.13t VENV=.venvs/3.13t
	tsan         tests with threads under ThreadSanitizer: PYTHON is built with it, too
	everything   all of .ci/run, and all fast tests in each of its Debians
	newer        the fast tests in another Debian: RELEASE=trixie, RELEASE=sid VERSION=3.15
	test-system  the fast tests but for those of other people's packages
	asan         the tests of the C code with AddressSanitizer and UBSan
	debug-alloc  the tests with Python's debug allocator and -X dev
	leaks        count references, blocks and descriptors over many connections
	conformance  the interpreter's own test.test_asyncio on uvtulip
	interop      other people's servers, clients, frameworks, and their suites
	suites       only the test suites of other projects on uvtulip
	stress       the long tests
	soak         the counts of leaks, over very many connections
	fuzz         TLS over a wire that falsifies, random programs on loop and handles
	bench        uvtulip against uvloop and asyncio
	lint         ruff, mypy, stubtest and the checks of docs-free
	symbols      exported symbols, and one shared libuv
	musl         all C code with musl's headers in place of glibc's
	docs         the documents as HTML, with a reference made of the docstrings
	docs-free    links of the documents, and no leftovers in the tree
	clean        remove what the build made, and the virtual environments
	
	PYTHON=python3.13 VENV=.venvs/3.13 chooses another interpreter.
	END

# System packages (only if something is missing) and the tools that build.
$(VENV)/.tools: tools/system-packages
	PYTHON="$(PYTHON)" tools/system-packages
	"$(PYTHON)" -m venv "$(VENV)"
	$(PIP) install --quiet "meson-python>=0.18" "meson>=1.2.3" ninja
	touch $@

$(VENV)/.installed: $(VENV)/.tools $(SOURCES)
	$(INSTALL) ".[test,interop]"
	touch $@

$(VENV)/.lint: $(VENV)/.installed
	$(INSTALL) ".[lint]"
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(INSTALL) ".[docs]"
	touch $@

setup: $(VENV)/.installed

run: setup
	exec $(BIN)/python -m uvtulip examples/aiohttp_app.py

test: setup
	tools/side-by-side "$(LOOP_TESTS)" "$(HANDLE_TESTS)" $(PYTEST) $(PYTEST_ARGS)

test-all:
	@while read -r version python; do
		if [ "$$python" = - ]; then
			echo "== CPython $$version: not on this machine, left out"
		elif [[ " $(SKIP) " == *" $$version "* ]]; then
			echo "== CPython $$version: left out by SKIP"
		else
			echo "== CPython $$version: $$python"
			$(MAKE) --no-print-directory test \
				PYTHON="$$python" VENV=".venvs/$$version" </dev/null
		fi
	done < <(tools/pythons 3.11 3.12 3.13)

# What the system below can change: the package itself, built and tested there.  The
# tests that are left out are about other people's packages.
SYSTEM_TESTS := $(filter-out tests/interop,$(LOOP_TESTS))
$(VENV)/.tested: $(VENV)/.tools $(SOURCES)
	$(INSTALL) ".[test]"
	touch $@

setup-system: $(VENV)/.tested

test-system: setup-system
	tools/side-by-side "$(SYSTEM_TESTS)" tests/uv $(PYTEST) $(PYTEST_ARGS)

# All that .ci/run does, with nothing left out in the other Debians.
everything:
	WHOLE=1 .ci/run

# In a Debian of its own, see the script for what else can be set.
RELEASE ?= sid
newer:
	VERSION="$(VERSION)" FOLDER="$(FOLDER)" tools/other-debian "$(RELEASE)" \
		make --no-print-directory test PYTEST_ARGS="$(PYTEST_ARGS)"

# Where trustme cannot be had (no cryptography for that Python), the tests of TLS are
# left out, and that is said.
NO_GIL := PYTHON_GIL=0
TLS_TESTS = $(shell grep -lErs "tlssupport|rawtls|fuzz|trustme" tests/loop tests/uv)
$(VENV)/.bare: $(VENV)/.tools $(SOURCES)
	$(INSTALL) .
	$(PIP) install --quiet "pytest>=8"
	$(PIP) install --quiet "trustme>=1.1" || echo "no trustme: the tests of TLS are left out"
	touch $@

free-threaded: $(VENV)/.bare
	left=
	if ! $(BIN)/python -c 'import trustme' 2>/dev/null; then
		echo "left out, as they need trustme: $(TLS_TESTS)"
		left="$(addprefix --ignore=,$(TLS_TESTS))"
	fi
	$(NO_GIL) UVTULIP_TEST_LIMIT=120 tools/side-by-side tests/loop tests/uv \
		$(PYTEST) $$left $(PYTEST_ARGS)

# $(PYTHON) was configured with --disable-gil --with-thread-sanitizer.
TSAN_TESTS ?= tests/loop/test_many_threads.py tests/loop/test_threads.py \
	tests/loop/test_threadsafe.py tests/loop/test_executor_dns.py \
	tests/loop/test_loop_gc.py tests/loop/test_signals.py tests/uv/test_async.py \
	tests/uv/test_work.py tests/uv/test_thread.py tests/uv/test_fs_request.py
tsan: export CFLAGS := -fsanitize=thread -g -O1
tsan: export LDFLAGS := -fsanitize=thread
tsan: $(VENV)/.bare
	rm -f "$(BUILD)"/thread-report.*
	$(NO_GIL) UVTULIP_TEST_LIMIT=600 TSAN_OPTIONS="exitcode=0 \
	log_path=$(CURDIR)/$(BUILD)/thread-report" \
		$(PYTEST) -k "not fork and not child" $(PYTEST_ARGS) $(TSAN_TESTS)
	$(BIN)/python tools/thread_reports.py "$(BUILD)"/thread-report.*

# The sanitized modules stand in a folder of their own, before the installed ones.
# Not the tests of forks: the sanitizer's allocator may be locked by a thread that the
# child does not have.
ASAN := build/asan-$(notdir $(VENV))
asan: setup
	if [ ! -f "$(ASAN)/build.ninja" ]; then
		PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/meson setup "$(ASAN)" . \
			-Dbuildtype=debugoptimized -Db_ndebug=false -Dwerror=true \
			-Db_sanitize=address,undefined -Db_lundef=false \
			-Dprefix="$(CURDIR)/$(ASAN)" \
			-Dpython.platlibdir="$(CURDIR)/$(ASAN)/site" \
			-Dpython.purelibdir="$(CURDIR)/$(ASAN)/site"
	fi
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/meson install -C "$(ASAN)" --quiet
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	PYTHONMALLOC=malloc PYTHONPATH="$(CURDIR)/$(ASAN)/site" \
	UVTULIP_TEST_LIMIT=180 \
		tools/side-by-side "tests/loop tests/cmodule" tests/uv \
			$(PYTEST) -k "not fork" $(PYTEST_ARGS)

debug-alloc: setup
	PYTHONMALLOC=debug UVTULIP_TEST_LIMIT=180 \
		tools/side-by-side "tests/loop tests/cmodule" tests/uv \
			$(BIN)/python -X dev -W error -m pytest $(PYTEST_ARGS)

leaks: setup
	for script in tests/isolated/leak_*.py; do
		echo "$$script"
		$(BIN)/python "$$script"
	done

conformance: setup
	if ! $(BIN)/python -c 'import test.test_asyncio' 2>/dev/null; then
		PYTHON="$(PYTHON)" tools/system-packages --testsuite
	fi
	$(BIN)/python tests/conformance/run.py
	UVTULIP_TLS=portable $(BIN)/python tests/conformance/run.py \
		test_events test_server test_ssl test_sslproto test_streams

$(VENV)/.programs: $(VENV)/.installed
	PYTHON="$(PYTHON)" tools/system-packages --programs
	$(INSTALL) ".[test,interop,programs]"
	touch $@

# Other seeds each time; a failure names its own.
FUZZ_COUNT ?= 5000
fuzz: setup
	first=$$RANDOM$$RANDOM
	$(BIN)/python tests/apifuzz.py --first $$first --count $(FUZZ_COUNT)
	for backend in openssl memory-bio; do
		$(BIN)/python -X faulthandler tests/tlsfuzz.py \
			--first $$first --count $(FUZZ_COUNT) --backend $$backend
		$(BIN)/python tests/loopfuzz.py \
			--first $$first --count $(FUZZ_COUNT) --backend $$backend
	done

# Hours of use in minutes: 100,000 connections, a million datagrams and so on.
soak: setup
	for script in tests/isolated/leak_*.py; do
		echo "$$script"
		UVTULIP_SOAK=1 $(BIN)/python "$$script"
	done

interop: $(VENV)/.programs
	UVTULIP_TEST_LIMIT=120 $(PYTEST) $(PYTEST_ARGS) tests/interop tests/programs
	$(RUN_SUITES)

# Each suite has an environment of its own in build/suites; they take an hour in all.
RUN_SUITES = UVTULIP_TEST_LIMIT=4000 $(PYTEST) -s $(PYTEST_ARGS) tests/suites
suites: $(VENV)/.programs
	$(RUN_SUITES)

stress: setup
	UVTULIP_TEST_LIMIT=600 $(PYTEST) $(PYTEST_ARGS) tests/stress

bench: setup
	$(INSTALL) ".[bench]"
	$(MAKE) --no-print-directory -C bench
	cd bench
	"$(abspath $(BIN))/python" compare.py --quick

lint: $(VENV)/.lint docs-free
	$(BIN)/ruff check python tests examples bench tools
	$(BIN)/mypy --strict python/uvtulip
	$(BIN)/mypy --strict examples
	$(BIN)/python -m mypy.stubtest uvtulip $(addprefix --allowlist ,$(ALLOWLIST))

symbols: setup
	$(BIN)/python tools/check_symbols.py

musl: setup
	PYTHON="$(PYTHON)" tools/system-packages --musl
	$(BIN)/python tools/check_musl.py

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -W --keep-going -b html -d build/docs-cache docs build/docs
	echo "build/docs/index.html"

docs-free:
	"$(PYTHON)" tools/check_tree.py

clean:
	rm -rf build .venv .venvs .pytest_cache .mypy_cache .ruff_cache
	$(MAKE) --no-print-directory -C bench clean
