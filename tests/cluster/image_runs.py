"""Runs a command in a built image as a pod would: uid of the image, read-only root, no capability.

The root file system is mounted from the builder's store and runc carries the command out, so no
cluster is needed and nothing is unpacked.
"""

import json
import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class MountedImage:
    """An image whose root file system can be looked at under `root`."""

    root: Path
    config: dict[str, Any]
    """The `config` of the OCI image: User, Env, Entrypoint, WorkingDir."""

    def run(
        self, *command: str, env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, without a network; the image's entrypoint if there is none.

        Only /tmp, /dev/shm and /cache can be written to, as in a pod with emptyDir volumes.
        """
        with container(self, list(command) or self.config["Entrypoint"], env or {}) as running:
            try:
                output, errors = running.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGTERM)
                raise
        return subprocess.CompletedProcess(command, running.returncode, output, errors)


@contextmanager
def mounted(store: Path, archive: Path, name: str) -> Iterator[MountedImage]:
    """Mount the image from a builder's store, which takes it from the archive if it has it not."""
    buildah = ["buildah", "--root", str(store), "--runroot", str(store / "run")]

    def output(*arguments: str) -> str:
        return subprocess.check_output([*buildah, *arguments], text=True).strip()

    present = output("images", "--quiet", "--filter", f"reference={name}")
    if not present:
        output("pull", "--quiet", f"oci-archive:{archive}:{name}")
    described = json.loads(output("inspect", "--type", "image", name))
    made = output("from", "--pull-never", name)
    try:
        yield MountedImage(Path(output("mount", made)), described["OCIv1"]["config"])
    finally:
        output("rm", made)


@contextmanager
def container(
    image: MountedImage, command: list[str], env: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A running container of the image; it is killed and deleted at the end."""
    name = f"rzero-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory() as bundle:
        spec = _spec(image, command, env)
        (Path(bundle) / "config.json").write_text(json.dumps(spec))
        running = subprocess.Popen(
            ["runc", "run", "--bundle", bundle, name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        try:
            yield running
        finally:
            subprocess.run(["runc", "delete", "--force", name], capture_output=True, check=False)
            running.wait()


def _spec(image: MountedImage, command: list[str], env: dict[str, str]) -> dict[str, Any]:
    """What the kubelet would ask for under the restricted Pod Security Standard."""
    user, group = (int(part) for part in image.config["User"].split(":"))
    given = dict(pair.split("=", 1) for pair in image.config["Env"]) | env
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(image.root), "readonly": True},
        "process": {
            "user": {"uid": user, "gid": group},
            "args": command,
            "cwd": image.config["WorkingDir"],
            "env": [f"{key}={value}" for key, value in given.items()],
            "noNewPrivileges": True,
        },
        "mounts": [
            _Mount("/proc", "proc").to_json(),
            _Mount("/dev", "tmpfs", ["nosuid", "mode=755"]).to_json(),
            _Mount("/sys", "sysfs", ["nosuid", "noexec", "nodev", "ro"]).to_json(),
            *(
                _Mount(path, "tmpfs", ["nosuid", "nodev", f"uid={user}"]).to_json()
                for path in ("/dev/shm", "/tmp", "/cache")
                if (image.root / path.lstrip("/")).exists() or path == "/dev/shm"
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
        },
    }


@dataclass(frozen=True)
class _Mount:
    destination: str
    type: str
    options: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "destination": self.destination,
            "type": self.type,
            "source": self.type,
            "options": self.options,
        }
