# `make run` and `make test` do all the set-up they need; run them as root, or as a user with sudo.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# What root writes into a user's clone the user cannot delete. So where root was asked to (`sudo make run`), all that
# is made in the tree is made as the tree's owner, and what has to run as root writes no bytecode and no caches there.
OWNER := $(shell stat -c %u .)
AS_OWNER := $(shell [ "$$(id -u)" != 0 ] || [ $(OWNER) = 0 ] || echo setpriv --reuid $(OWNER) --regid $$(stat -c %g .) \
	--clear-groups env HOME=$$(getent passwd $(OWNER) | cut -d: -f6))
AS_ROOT := $(SUDO) env PYTHONDONTWRITEBYTECODE=1

# Since Debian 13 docker.io comes without the command.
DOCKER := docker.io docker-compose $(shell . /etc/os-release; [ "$${VERSION_ID:-}" = 12 ] || echo docker-cli)
BUILD_PACKAGES := clang llvm libbpf-dev libbpf1 linux-libc-dev make python3 python3-venv
TEST_PACKAGES := bpftool busybox-static debootstrap $(DOCKER) ethtool gcc git iperf3 iproute2 iptables \
	libc6-dev libfixbuf-tools mrtg nfdump nftables pmacct procps prometheus prometheus-snmp-exporter snmp \
	softflowd tcpdump tshark
BENCH_PACKAGES := snmp snmpd softflowd

# $(call install,packages): only what is missing; never starts the daemons that come along.
install = @missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null \
		| grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing" $$missing; \
		$(SUDO) apt-get update -qq; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
			apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

.PHONY: build run test lint unit bench docs system system-test system-bench packages kernel clean

build: system kernel $(VENV)/.installed

run: build
	@$(AS_ROOT) $(VENV)/bin/sockflow run $(ARGS)

test: build system-test $(VENV)/.installed-test lint
	@caches=$$(mktemp -d); trap '$(SUDO) rm -rf $$caches' EXIT; \
	$(AS_ROOT) CI=$${CI:-} HYPOTHESIS_STORAGE_DIRECTORY=$$caches/hypothesis \
		$(VENV)/bin/python -m pytest -o cache_dir=$$caches/pytest $(ARGS)

lint: $(VENV)/.installed-test
	@$(AS_OWNER) $(VENV)/bin/ruff check --quiet .
	@$(AS_OWNER) $(VENV)/bin/mypy

# Minutes, no root, no eBPF.
unit: $(VENV)/.installed-test
	@$(AS_OWNER) $(VENV)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadscope tests/unit $(ARGS)

# The pages and pictures that are made of the code and of templates/.
docs: $(VENV)/.installed-test
	@$(AS_OWNER) $(VENV)/bin/python -m docs.make

bench: build system-test system-bench $(VENV)/.installed-test
	@$(AS_ROOT) $(VENV)/bin/python -m bench $(ARGS)

system:
	$(call install,$(BUILD_PACKAGES))

system-test:
	$(call install,$(TEST_PACKAGES))

system-bench:
	$(call install,$(BENCH_PACKAGES))

# Every Debian package that any of these installs.
packages:
	@echo $(BUILD_PACKAGES) $(TEST_PACKAGES) $(BENCH_PACKAGES)

kernel: system
	@$(AS_OWNER) $(MAKE) --silent -C bpf

$(VENV)/bin/python: | system
	@$(AS_OWNER) $(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py setup.cfg pyproject.toml | $(VENV)/bin/python
	@$(AS_OWNER) $(PIP) install -e '.[docker]'
	@$(AS_OWNER) touch $@

$(VENV)/.installed-test: setup.py setup.cfg pyproject.toml | $(VENV)/.installed
	@$(AS_OWNER) $(PIP) install -e '.[test]'
	@$(AS_OWNER) touch $@

clean:
	@$(MAKE) -C bpf clean
	@rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
