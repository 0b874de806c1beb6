"""Takes the test cluster's node off the machine again, also one whose owner was killed."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.cluster.node_config import BRIDGE, CGROUP, NETWORK, socket

CGROUPS = Path("/sys/fs/cgroup")
CNI_RESULTS = Path("/var/lib/cni/results")
POD_LOG_LINKS = Path("/var/log/containers")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
SHIM_SOCKETS = Path("/run/containerd/s")
FOLDERS = (
    *(CNI_RESULTS, CNI_RESULTS.parent),
    *(DEVICE_PLUGINS, DEVICE_PLUGINS.parent),
    *(SHIM_SOCKETS, SHIM_SOCKETS.parent),
    POD_LOG_LINKS,
)
"""What the node makes outside of its folder."""
PROXY_TABLES = ("ip", "ip6")
SYSCTLS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
"""What kubelet, kube-proxy and the bridge plugin set to values of their own."""


def remember(folder: Path) -> None:
    """Note in `folder` what `clean_up` shall restore; call it before the node starts."""
    values = {name: _sysctl(name).read_text() for name in SYSCTLS if _sysctl(name).exists()}
    (folder / "sysctls.json").write_text(json.dumps(values))


def clean_up(folder: Path) -> None:
    """End all containers and undo all mounts, networks and cgroups of the node in `folder`.

    Its kubelet, kube-proxy and containerd must have ended. Does nothing where nothing is left.
    """
    shim_sockets = list(_shim_sockets(folder))
    _kill(_shims(folder))
    _kill(_in_cgroups())
    for mount in sorted(_mounts(folder), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=True)
    for path in shim_sockets:
        path.unlink(missing_ok=True)
    _remove_cgroups()
    _remove_network()
    _remove_files(folder)
    remembered = folder / "sysctls.json"
    if remembered.exists():
        for name, value in json.loads(remembered.read_text()).items():
            _sysctl(name).write_text(value)


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name


def _shims(folder: Path) -> Iterator[int]:
    """Processes of containerd's shims: they outlive it by design."""
    address = str(socket(folder)).encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"containerd-shim-runc-v2") and address in words:
            yield int(process.name)


def _shim_sockets(folder: Path) -> Iterator[Path]:
    """Sockets that shims leave outside of `folder`."""
    for file in folder.glob("run/io.containerd.runtime.v2.task/*/*/bootstrap.json"):
        address = json.loads(file.read_text())["address"]
        yield Path(address.removeprefix("unix://"))


def _in_cgroups() -> Iterator[int]:
    for file in _cgroups("cgroup.procs"):
        yield from map(int, file.read_text().split())


def _cgroups(name: str = "") -> Iterator[Path]:
    """All cgroups of the node, in all hierarchies of version 1 or 2; inner ones come last."""
    for top in (CGROUPS / CGROUP, *CGROUPS.glob(f"*/{CGROUP}")):
        for folder, _, _ in os.walk(top):
            yield Path(folder) / name


def _remove_cgroups() -> None:
    for path in sorted(_cgroups(), reverse=True):
        # The kernel needs a moment after the last process has gone.
        _until(partial(_is_gone, path))


def _is_gone(cgroup: Path) -> bool:
    try:
        cgroup.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _remove_network() -> None:
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        # The pods' ends went with their network namespaces.
        subprocess.run(["ip", "link", "delete", BRIDGE], check=True)
    for family in PROXY_TABLES:
        found = subprocess.run(["nft", "list", "table", family, "kube-proxy"], capture_output=True)
        if found.returncode == 0:
            subprocess.run(["nft", "delete", "table", family, "kube-proxy"], check=True)


def _remove_files(folder: Path) -> None:
    """What the node wrote outside of `folder`, and the folders that are empty now."""
    for result in CNI_RESULTS.glob(f"{NETWORK}-*"):
        result.unlink()
    for link in POD_LOG_LINKS.glob("*"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{folder}/"):
            link.unlink()
    (DEVICE_PLUGINS / "kubelet.sock").unlink(missing_ok=True)
    for place in FOLDERS:
        # Absent, or another program's as well.
        with suppress(OSError):
            place.rmdir()


def _kill(pids: Iterator[int]) -> None:
    """Kill processes and wait until they are gone; they are not children of this one."""
    killed = list(pids)
    for pid in killed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for pid in killed:
        _until(partial(_is_dead, pid))


def _is_dead(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def _mounts(folder: Path) -> list[str]:
    rows = Path("/proc/self/mounts").read_text().splitlines()
    paths = [row.split()[1].encode().decode("unicode_escape") for row in rows]
    return [path for path in paths if path.startswith(f"{folder}/")]


def _until(done: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError("the test node could not be taken away within 10 s; see `ps`")
        time.sleep(0.02)
