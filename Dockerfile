# nfcapd for docker-compose.yml. The probe is the last stage, and so what a plain build makes.
FROM debian:12-slim AS nfcapd
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends nfdump >/dev/null \
    && rm -rf /var/lib/apt/lists/*

# The kernel object is compiled here; the image of the probe has no compiler.
FROM debian:12-slim AS build
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends \
        clang llvm libbpf-dev make python3 python3-venv >/dev/null
COPY . /src
WORKDIR /src
RUN make -C bpf clean all \
    && python3 -m venv /opt/sockflow \
    && /opt/sockflow/bin/pip install --quiet --no-cache-dir '.[docker]'

FROM debian:12-slim AS sockflow
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends libbpf1 python3 >/dev/null \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/sockflow /opt/sockflow
ENTRYPOINT ["/opt/sockflow/bin/sockflow"]
CMD ["run"]
