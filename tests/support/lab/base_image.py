"""Makes the base image of our Dockerfile by debootstrap, without a registry.

The image has this machine's settings of apt and pip. So a build behind a proxy, a mirror or a
private certificate needs nothing in the Dockerfile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.lab.docker import Engine
from tests.support.lab.hosts import run

NAME = "debian:12-slim"
_SUITE = "bookworm"
_APT = ("Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::http", "Acquire::https")
_PIP = ("index-url", "extra-index-url", "trusted-host", "proxy")
#: As in Docker's official image: no documentation, translations or cached packages, and no waits
#: for the disk.
_SLIM = {
    "dpkg/dpkg.cfg.d/slim": "force-unsafe-io\n"
    + "".join(f"path-exclude /usr/share/{name}/*\n" for name in ("doc", "info", "locale", "man")),
    "apt/apt.conf.d/slim": 'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
    'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n',
}
_USELESS = ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man",
            "var/cache/apt", "var/lib/apt/lists", "var/log")  # fmt: skip


def import_base_image(engine: Engine, directory: Path) -> None:
    """Imports the image; its files are in ``directory`` meanwhile, and are removed at the end."""
    root = directory / "root"
    try:
        hasty = {**os.environ, "DPKG_FORCE": "unsafe-io"}
        run("debootstrap", "--variant=minbase", _SUITE, str(root), env=hasty)
        for name in _USELESS:
            shutil.rmtree(root / name)
            (root / name).mkdir()
        for name, text in {**_SLIM, "apt/apt.conf.d/machine": _apt_settings()}.items():
            (root / "etc" / name).write_text(text)
        (root / "etc" / "pip.conf").write_text(_pip_settings(root))
        archive = ["tar", "-C", str(root), "-c", "."]
        with subprocess.Popen(archive, stdout=subprocess.PIPE) as made:
            engine("import", "-", NAME, stdin=made.stdout)
        assert made.returncode == 0
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _apt_settings() -> str:
    return run("apt-config", "dump", *_APT).stdout


def _pip_settings(root: Path) -> str:
    """Returns pip's settings without indices that are folders of this machine."""
    lines = run(sys.executable, "-m", "pip", "config", "list").stdout.splitlines()
    pairs = [line.partition("=")[::2] for line in lines]
    values = {key.rpartition(".")[2]: value.strip("'\"") for key, value in pairs}
    chosen = {
        key: kept
        for key in _PIP
        if (kept := [word for word in values.get(key, "").split() if "file:" not in word])
    }
    text = "[global]\n" + "".join(f"{key} = {' '.join(kept)}\n" for key, kept in chosen.items())
    if certificates := values.get("cert"):
        shutil.copy(certificates, root / "etc" / "pip.pem")
        text += "cert = /etc/pip.pem\n"
    return text
