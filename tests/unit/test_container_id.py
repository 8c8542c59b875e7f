"""Tests that ids of containers and Pods are read from the paths of cgroups."""

from __future__ import annotations

import pytest

from probe.owners.container import Place, container_id, pod_uid, read_place, systemd_unit

ID = "4f3c9e0d9be1ab27a3a1e6c5d7a0f9be1ab27a3a1e6c5d7a0f9b4f3c9e0d9b12"
OUTER = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
POD = "2c48913c-b29f-11e7-9350-020968147796"
POD_ = POD.replace("-", "_")
_POD_SLICE = f"kubepods-burstable-pod{POD_}.slice"

DOCKER = {
    "cgroupfs": f"/docker/{ID}",
    "systemd": f"/system.slice/docker-{ID}.scope",
    "a parent of its own": f"/batch/jobs/{ID}",
    "systemd inside": f"/docker/{ID}/system.slice/nginx.service",
    "systemd inside, v2": f"/system.slice/docker-{ID}.scope/init.scope",
    "rootless": f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope",
    "in Docker": f"/docker/{OUTER}/docker/{ID}",
    "in Docker, systemd": f"/system.slice/docker-{OUTER}.scope/docker/{ID}",
    "in LXC": f"/lxc.payload.build/docker/{ID}",
    "in nspawn": f"/machine.slice/machine-build.scope/payload/system.slice/docker-{ID}.scope",
    "ECS": f"/ecs/8f3f4d5e6a7b48c9a0b1c2d3e4f50617/{ID}",
}
CONTAINERD = {
    "nerdctl, cgroupfs": f"/default/{ID}",
    "nerdctl, systemd": f"/system.slice/nerdctl-{ID}.scope",
    "nerdctl, rootless": f"/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-{ID}"
    ".scope",
}
KUBERNETES = {
    "cgroupfs": f"/kubepods/burstable/pod{POD}/{ID}",
    "cgroupfs, guaranteed": f"/kubepods/pod{POD}/{ID}",
    "cgroupfs, CRI-O": f"/kubepods/besteffort/pod{POD}/crio-{ID}",
    "systemd, Docker": f"/kubepods.slice/kubepods-burstable.slice/{_POD_SLICE}/docker-{ID}.scope",
    "systemd, containerd": "/kubepods.slice/kubepods-burstable.slice/"
    f"{_POD_SLICE}/cri-containerd-{ID}.scope",
    "systemd, CRI-O": f"/kubepods.slice/kubepods-burstable.slice/{_POD_SLICE}/crio-{ID}.scope",
    "systemd, CRI-O 1.29": f"/kubepods.slice/kubepods-burstable.slice/{_POD_SLICE}/crio-{ID}.scope"
    "/container",
    "systemd, guaranteed": f"/kubepods.slice/kubepods-pod{POD_}.slice/cri-containerd-{ID}.scope",
    "drivers that differ": f"/{_POD_SLICE}:cri-containerd:{ID}",
    "drivers that differ, in a service": f"/system.slice/containerd.service/{_POD_SLICE}"
    f":cri-containerd:{ID}",
    "kind, cgroupfs": f"/docker/{OUTER}/kubelet/kubepods/burstable/pod{POD}/{ID}",
    "kind, systemd": f"/system.slice/docker-{OUTER}.scope/kubelet.slice/kubelet-kubepods.slice/"
    f"kubelet-kubepods-burstable.slice/kubelet-{_POD_SLICE}/cri-containerd-{ID}.scope",
    "systemd inside": f"/kubepods.slice/{_POD_SLICE}/cri-containerd-{ID}.scope/init.scope",
}
STATIC = "8d0d37e6d8dc0e2f6ee8a2f5f2b5b6c3"  # the UID of a static Pod is a digest
IN_POD = {  # cgroups that prove a Pod but no container in it -> its UID
    f"/kubepods/burstable/pod{POD}": POD,
    f"/kubepods.slice/kubepods-burstable.slice/{_POD_SLICE}": POD,
    f"/kubepods.slice/kubepods-burstable.slice/{_POD_SLICE}/crio-conmon-{ID}.scope": POD,
    f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{POD_}.slice": POD,
    f"/kubepods/burstable/pod{STATIC}/{ID}": STATIC,
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/"
    f"cri-containerd-{ID}.scope": STATIC,
    f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{POD_}.slice": POD,
}
PODMAN = {
    "systemd, v1": f"/machine.slice/libpod-{ID}.scope",
    "systemd, v2": f"/machine.slice/libpod-{ID}.scope/container",
    "cgroupfs": f"/libpod_parent/libpod-{ID}",
    "in a pod": f"/machine.slice/machine-libpod_pod_{OUTER}.slice/libpod-{ID}.scope/container",
    "rootless": f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
    "as a unit": f"/system.slice/web.service/libpod-payload-{ID}",
}
NAMED = {
    "/lxc.payload.web": "web",
    "/lxc.payload.web-1.test/system.slice/ssh.service": "web-1.test",
    "/lxc/web": "web",
    "/lxc/101/ns/system.slice/nginx.service": "101",
    "/machine.slice/machine-web.scope": "web",
    "/machine.slice/machine-web.scope/payload/system.slice/nginx.service": "web",
    r"/machine.slice/machine-web\x2d1.scope/payload": "web-1",
    r"/machine.slice/machine-lxc\x2d4711\x2dweb.scope": "web",
    r"/machine.slice/machine-lxc\x2dweb.scope": "web",
    r"/machine.slice/machine-lxc\x2d4711\x2dweb\x2d1.scope/libvirt": "web-1",
    "/machine/web.libvirt-lxc": "web",
    "/machine.partition/lxc-11111-web.libvirt-lxc": "web",
    "/machine.slice/systemd-nspawn@web.service/payload": "web",
    "/machine.slice/systemd-nspawn@web-1.service/payload/init.scope": "web-1",
}
ALLOCATION = "4744f0ea-7616-ab3a-a420-8e25056e3861"
HANDLE = "2f57368b-0eda-4e52-64d8-af5c"
BUILD = "k3v5b9l2m8n4p6q7r1s0t3u5w"
#: Path of a cgroup -> id, for runtimes that few hosts have.
OTHERS = {
    "/default/redis": "redis",  # ctr run IMAGE redis
    "/default/redis/init.scope": "redis",
    f"/k8s.io/{ID}": ID,
    f"/nomad.slice/share.slice/{ALLOCATION}.web.scope": f"{ALLOCATION}.web",
    f"/nomad.slice/reserve.slice/{ALLOCATION}.web-1.scope": f"{ALLOCATION}.web-1",
    f"/nomad.slice/{ALLOCATION}.web.scope": f"{ALLOCATION}.web",  # 1.4
    f"/nomad/{ALLOCATION}.web": f"{ALLOCATION}.web",  # cgroup v1
    f"/nomad/share/{ALLOCATION}.web": f"{ALLOCATION}.web",
    f"/system.slice/garden.service/garden/good/{HANDLE}": HANDLE,
    f"/system.slice/garden.service/garden/bad/{HANDLE}": HANDLE,
    f"/garden/{HANDLE}": HANDLE,
    f"/garden-1/{HANDLE}/init": HANDLE,
    f"/buildkit/{BUILD}": BUILD,
    f"/docker/buildkit/{BUILD}": BUILD,
    f"/system.slice/docker-{BUILD}.scope": BUILD,
    f"/default/{BUILD}": BUILD,
    "/apptainer/4711": "4711",
    "/system.slice/apptainer-4711.scope": "4711",
    "/user.slice/user-1000.slice/user@1000.service/user.slice/apptainer-4711.scope": "4711",
    "/singularity/4711": "4711",
    f"/kubepods/pod{POD}/kata_{ID}": ID,
    f"/kata_overhead/{ID}": ID,
    f"/kata_overhead/kubepods/burstable/pod{POD}/{ID}": ID,
    "/kata_web": "web",
    f"/mesos/{POD}": POD,
    f"/mesos/{POD}/mesos/{ALLOCATION}": ALLOCATION,
    "/ecs/8f3f4d5e6a7b48c9a0b1c2d3e4f50617/8f3f4d5e6a7b48c9a0b1c2d3e4f50617-265927825":
        "8f3f4d5e6a7b48c9a0b1c2d3e4f50617-265927825",
    f"/system.slice/ecstasks.slice/ecstasks-1.slice/docker-{ID}.scope": ID,
    "/system.slice/runc-web.scope": "web",
    "/user.slice/crun-web.scope/container": "web",
}  # fmt: skip
NONE = (
    "",
    "/default",
    "/nomad.slice/share.slice",
    f"/nomad.slice/{ALLOCATION}",
    "/garden",
    "/system.slice/garden.service/garden/good",
    "/buildkit",
    "/buildkit/short",
    "/kata_overhead",
    "/kata_overhead/kubepods/burstable",
    "/apptainer",
    "/apptainer/name",
    "/mesos/name",
    "/system.slice/default/x",
    "/system.slice/docker-short.scope",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/app-flatpak-org.x-47.scope",
    "/system.slice/snap.lxd.daemon.service",
    "/system.slice/slurmstepd.scope/job_1/step_0/user/task_0",
    "/",
    "/init.scope",
    "/system.slice/docker.service",
    "/system.slice/containerd.service",
    "/system.slice/crio.service",
    "/user.slice/user-1000.slice/session-3.scope",
    "/docker",
    "/lxc",
    "/lxc.monitor.web",
    f"/machine.slice/libpod-conmon-{ID}.scope",
    f"/kubepods.slice/kubepods-burstable.slice/{_POD_SLICE}/crio-conmon-{ID}.scope",
    f"/kubepods/burstable/pod{POD}",
    f"/kubepods.slice/kubepods-burstable.slice/{_POD_SLICE}",
    f"/machine.slice/machine-libpod_pod_{OUTER}.slice",
    r"/machine.slice/machine-qemu\x2d1\x2ddebian.scope",  # a virtual machine of libvirt
    f"/docker/{ID[:-1]}",
    f"/docker/{ID}0",
    f"/docker/{ID.upper()}",
    "/ecs/8f3f4d5e6a7b48c9a0b1c2d3e4f50617",
)


@pytest.mark.parametrize("path", DOCKER.values(), ids=DOCKER)
def test_docker(path: str) -> None:
    assert container_id(path) == ID


@pytest.mark.parametrize("path", CONTAINERD.values(), ids=CONTAINERD)
def test_containerd(path: str) -> None:
    assert container_id(path) == ID


@pytest.mark.parametrize("path", KUBERNETES.values(), ids=KUBERNETES)
def test_kubernetes(path: str) -> None:
    assert container_id(path) == ID


@pytest.mark.parametrize("path", PODMAN.values(), ids=PODMAN)
def test_podman(path: str) -> None:
    assert container_id(path) == ID


@pytest.mark.parametrize(("path", "name"), NAMED.items())
def test_lxc_and_nspawn(path: str, name: str) -> None:
    assert container_id(path) == name


@pytest.mark.parametrize(("path", "name"), OTHERS.items())
def test_other_runtimes(path: str, name: str) -> None:
    assert container_id(path) == name


def test_a_virtual_machine_around_the_container_of_a_pod() -> None:
    """Kata's virtual machine is known by its sandbox, which is in the Pod."""
    assert read_place(f"/kubepods/pod{POD}/kata_{ID}") == Place(ID, "", POD)


NESTED = {
    DOCKER["in Docker"]: (ID, OUTER),
    DOCKER["in Docker, systemd"]: (ID, OUTER),
    DOCKER["in LXC"]: (ID, "build"),
    DOCKER["in nspawn"]: (ID, "build"),
    KUBERNETES["kind, cgroupfs"]: (ID, OUTER),
    KUBERNETES["kind, systemd"]: (ID, OUTER),
    f"/lxc.payload.vm/lxc.payload.inner/docker/{ID}": (ID, "inner"),
    f"/lxc/101/ns/lxc/7/ns/libpod_parent/libpod-{ID}": (ID, "7"),
    f"/machine.slice/libpod-{OUTER}.scope/container/libpod_parent/libpod-{ID}": (ID, OUTER),
    f"/system.slice/docker-{OUTER}.scope/kubepods.slice/{_POD_SLICE}/docker-{ID}.scope": (
        ID, OUTER
    ),
}  # fmt: skip


@pytest.mark.parametrize(("path", "ids"), NESTED.items())
def test_the_innermost_wins_and_the_outer_is_kept(path: str, ids: tuple[str, str]) -> None:
    place = read_place(path)
    assert (place.container_id, place.outer_container_id) == ids


@pytest.mark.parametrize("path", [DOCKER["systemd"], *CONTAINERD.values(), *NAMED, *NONE])
def test_nothing_around(path: str) -> None:
    assert read_place(path).outer_container_id == ""


def test_all_of_a_place() -> None:
    assert read_place(KUBERNETES["kind, cgroupfs"]) == Place(ID, OUTER, POD, is_doubtful=True)
    assert read_place("/system.slice/nginx.service") == Place(unit="nginx.service")
    assert read_place("/") == Place()


@pytest.mark.parametrize("path", NONE)
def test_no_container(path: str) -> None:
    assert container_id(path) == ""


@pytest.mark.parametrize("path", KUBERNETES.values(), ids=KUBERNETES)
def test_pod_of_a_container(path: str) -> None:
    assert pod_uid(path) == POD


@pytest.mark.parametrize(("path", "uid"), IN_POD.items())
def test_pod(path: str, uid: str) -> None:
    assert pod_uid(path) == uid


@pytest.mark.parametrize(
    "path",
    [
        *DOCKER.values(),
        *CONTAINERD.values(),
        *PODMAN.values(),
        *NAMED,
        *(path for path in NONE if POD not in path and POD_ not in path),
        f"/kubepods/burstable/pod{POD[:-1]}",
        f"/kubepods/burstable/pod{POD}0",
        f"/user.slice/podman-{POD}",
    ],
)
def test_no_pod(path: str) -> None:
    assert pod_uid(path) == ""


UNITS = {
    "/system.slice/nginx.service": "nginx.service",
    "/system.slice/system-getty.slice/getty@tty1.service": "getty@tty1.service",
    r"/system.slice/system-postgresql.slice/postgresql@15\x2dmain.service": (
        r"postgresql@15\x2dmain.service"
    ),
    "/system.slice/docker.service": "docker.service",
    "/system.slice/containerd.service/kubelet": "containerd.service",  # below the unit
    "/system.slice/ssh.socket": "ssh.socket",
    "/system.slice/mnt-backup.mount": "mnt-backup.mount",
    "/system.slice/_cpu.service": "cpu.service",  # escaped by systemd's cg_escape()
    "/init.scope": "init.scope",
    "/user.slice/user-1000.slice/session-3.scope": "session-3.scope",
    "/user.slice/user-1000.slice/user@1000.service/init.scope": "user@1000.service",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/pipewire.service": "pipewire.service",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/"
    "vte-spawn-1f.scope": "vte-spawn-1f.scope",
    r"/machine.slice/machine-qemu\x2d1\x2ddebian.scope/libvirt/emulator": (
        r"machine-qemu\x2d1\x2ddebian.scope"
    ),
    f"/machine.slice/libpod-conmon-{ID}.scope": f"libpod-conmon-{ID}.scope",
}


@pytest.mark.parametrize(("path", "unit"), UNITS.items())
def test_unit(path: str, unit: str) -> None:
    assert systemd_unit(path) == unit


@pytest.mark.parametrize(
    "path",
    ["", "/", "/system.slice", "/user.slice/user-1000.slice", "/lxc.monitor.web", "/.service",
     *DOCKER.values(), *CONTAINERD.values(), *KUBERNETES.values(), *PODMAN.values(), *NAMED],
)  # fmt: skip
def test_no_unit(path: str) -> None:
    assert systemd_unit(path) == ""
