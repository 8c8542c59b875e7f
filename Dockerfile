# nfcapd for docker-compose.yml. The probe is the last stage, and so what a plain build makes.
FROM debian:12-slim AS nfcapd
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends nfdump >/dev/null \
    && rm -rf /var/lib/apt/lists/*

# The kernel object is compiled here; the image of the probe has no compiler and no pip.
FROM debian:12-slim AS build
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends \
        clang llvm libbpf-dev make python3 python3-venv >/dev/null
COPY . /src
WORKDIR /src
# What of setup.cfg's extras_require comes along: docker build --build-arg EXTRAS=docker,prometheus,snmp
ARG EXTRAS=docker
RUN make -C bpf clean all \
    && python3 -m venv /opt/sockflow \
    && /opt/sockflow/bin/pip install --quiet --no-cache-dir ".[$EXTRAS]" \
    && /opt/sockflow/bin/pip uninstall --quiet --yes setuptools pip \
    && find /opt/sockflow -type d -name tests -prune -exec rm -rf {} +

FROM debian:12-slim AS sockflow
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends libbpf1 python3 >/dev/null \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/sockflow /opt/sockflow
ENTRYPOINT ["/opt/sockflow/bin/sockflow"]
CMD ["run"]
