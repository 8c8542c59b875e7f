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

BUILD_PACKAGES := clang llvm libbpf-dev libbpf1 make python3 python3-venv
TEST_PACKAGES := bpftool busybox-static debootstrap docker-compose docker.io ethtool gcc iperf3 iproute2 iptables \
	mrtg nfdump nftables pmacct procps prometheus prometheus-snmp-exporter snmp softflowd tcpdump tshark
BENCH_PACKAGES := snmp snmpd softflowd

# $(call install,packages): only what is missing; never starts the daemons that come along.
install = @missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null \
		| grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing" $$missing; \
		$(SUDO) apt-get update -qq; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
			apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

.PHONY: build run test lint unit bench system system-test system-bench kernel clean

build: system kernel $(VENV)/.installed

run: build
	@$(SUDO) $(VENV)/bin/sockflow run $(ARGS)

test: build system-test $(VENV)/.installed-test lint
	@$(SUDO) env CI=$${CI:-} $(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.installed-test
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy

# Seconds, no root, no kernel.
unit: $(VENV)/.installed-test
	@$(VENV)/bin/python -m pytest tests/unit $(ARGS)

bench: build system-test system-bench $(VENV)/.installed-test
	@$(SUDO) $(VENV)/bin/python -m bench $(ARGS)

system:
	$(call install,$(BUILD_PACKAGES))

system-test:
	$(call install,$(TEST_PACKAGES))

system-bench:
	$(call install,$(BENCH_PACKAGES))

kernel: system
	@$(MAKE) --silent -C bpf

$(VENV)/bin/python: | system
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	@$(PIP) install -e '.[docker]'
	@touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/.installed
	@$(PIP) install -e '.[test]'
	@touch $@

clean:
	@$(MAKE) -C bpf clean
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
