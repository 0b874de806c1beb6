"""Builds the programs of the test cluster from pinned Go modules, once, outside the tree."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

MODULES = Path(__file__).parent
PROGRAMS = {
    "etcd": ("etcd", "."),
    "kubernetes": ("kubernetes", "."),
    "helm": ("helm", "helm.sh/helm/v4/cmd/helm"),
    "kwok": ("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "kubeconform": ("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
    "versitygw": ("versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    "containerd": ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    "containerd-shim-runc-v2": (
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    ),
    "ctr": ("containerd", "github.com/containerd/containerd/v2/cmd/ctr"),
    "coredns": ("coredns", "github.com/coredns/coredns"),
    "probe": ("probe", "."),
}
"""For each program the folder of its module, and its package there."""


class NoGo(RuntimeError):
    """There is neither a built program nor a Go compiler to build it."""


def program(name: str) -> Path:
    """Path of a program, built if it is not there. Several builders at once do no harm."""
    folder, package = PROGRAMS[name]
    module = MODULES / folder
    built = _cache() / f"{folder}-{_version(module)}" / name
    if built.exists():
        return built
    if shutil.which("go") is None:
        raise NoGo(f"{name} is not built and there is no Go compiler: install Go 1.26 or later")
    built.parent.mkdir(parents=True, exist_ok=True)
    with (built.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            unfinished = built.with_name(f"{name}.{os.getpid()}")
            subprocess.run(
                ["go", "build", "-trimpath", _linker_flags(module), "-o", unfinished, package],
                cwd=module,
                env=os.environ | {"CGO_ENABLED": "0"},
                check=True,
            )
            unfinished.replace(built)
    return built


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rzero"


def _linker_flags(module: Path) -> str:
    flags = "-ldflags=-s -w"
    if module.name == "kubernetes":
        # Clients ask the API server for its version, and charts may demand one.
        pinned = _pinned(module)
        major, minor, _ = pinned.split(".")
        values = {"gitVersion": f"v{pinned}", "gitMajor": major, "gitMinor": minor}
        for name, value in values.items():
            flags += f" -X k8s.io/component-base/version.{name}={value}"
    return flags


def _version(module: Path) -> str:
    """The pinned version, and a digest of all that the module's own files say."""
    sources = sorted(path for path in module.iterdir() if path.suffix in (".go", ".mod", ".sum"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    version = _pinned(module) if module.name in _MAIN_MODULE else "own"
    return f"{version}-{digest[:8]}"


def _pinned(module: Path) -> str:
    """The version of the module that gives a program its name."""
    main = (module / "go.mod").read_text()
    required = re.search(_MAIN_MODULE[module.name] + r" v(\S+)", main)
    assert required is not None, f"{module}/go.mod does not require {_MAIN_MODULE[module.name]}"
    return required[1]


_MAIN_MODULE = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kubernetes": "k8s.io/kubernetes",
    "helm": "helm.sh/helm/v4",
    "kwok": "sigs.k8s.io/kwok",
    "kubeconform": "github.com/yannh/kubeconform",
    "versitygw": "github.com/versity/versitygw",
    "containerd": "github.com/containerd/containerd/v2",
    "coredns": "github.com/coredns/coredns",
}


if __name__ == "__main__":
    for name in PROGRAMS:
        print(program(name), flush=True)
