"""The programs that build images, behind two calls: `build` and `save`."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TOOLS_STAGE = "localhost/rzero-image-tools:test"


class Builder(Protocol):
    """What `images` asks of a builder."""

    def build(
        self,
        name: str,
        containerfile: Path,
        tree: Path,
        arguments: list[str],
        lent: dict[str, Path],
    ) -> None:
        """Build the image. `lent` are secrets by their ids: files that single steps can read."""

    def save(self, name: str, archive: Path) -> None:
        """Write the image as an OCI archive with uncompressed layers."""


@dataclass(frozen=True)
class Buildah:
    """Buildah as root, without a daemon, with a store of its own."""

    uv_cache: Path
    store: Path

    def build(
        self,
        name: str,
        containerfile: Path,
        tree: Path,
        arguments: list[str],
        lent: dict[str, Path],
    ) -> None:
        build = self._command("build", "--isolation", "chroot")
        flags = _flags(containerfile, arguments, lent)
        _build_by_stages(build, self.uv_cache, name, [*flags, tree])
        # Layers that no image needs any more; those of older dependencies are 6 GB. An image that
        # somebody has mounted stays, and makes this fail.
        subprocess.run(self._command("rmi", "--prune"), capture_output=True, check=False)

    def save(self, name: str, archive: Path) -> None:
        # Not `push`: to an OCI archive it compresses in any case, which takes minutes.
        container = self._from(name)
        self._run("commit", "--quiet", "-D", "--rm", container, f"oci-archive:{archive}:{name}")

    def has(self, name: str) -> bool:
        """Whether the store holds an image of this name."""
        command = self._command("inspect", "--type", "image", name)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def load(self, name: str, root: Path) -> None:
        """Make an image of one layer from a tar of a root file system."""
        container = self._from("scratch")
        self._run("add", "--quiet", container, root, "/")
        self._run("commit", "--quiet", "--rm", container, name)

    def _from(self, name: str) -> str:
        command = self._command("from", "--pull-never", name)
        return subprocess.check_output(command, text=True).strip()

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run(self._command(*arguments), check=True)

    def _command(self, *arguments: str | Path) -> list[str | Path]:
        return ["buildah", "--root", self.store, "--runroot", self.store / "run", *arguments]


@dataclass(frozen=True)
class Podman:
    """Podman with the user's own store."""

    uv_cache: Path

    def build(
        self,
        name: str,
        containerfile: Path,
        tree: Path,
        arguments: list[str],
        lent: dict[str, Path],
    ) -> None:
        flags = _flags(containerfile, arguments, lent)
        _build_by_stages(["podman", "build"], self.uv_cache, name, [*flags, tree])

    def save(self, name: str, archive: Path) -> None:
        subprocess.run(
            ["podman", "save", "--uncompressed", "--format=oci-archive", "-o", archive, name],
            check=True,
        )


class Docker:
    """Docker with BuildKit; its downloads are not kept, for it mounts no folder of the host."""

    def build(
        self,
        name: str,
        containerfile: Path,
        tree: Path,
        arguments: list[str],
        lent: dict[str, Path],
    ) -> None:
        build = ["docker", "buildx", "build", "--load", "--tag", name]
        subprocess.run([*build, *_flags(containerfile, arguments, lent), tree], check=True)

    def save(self, name: str, archive: Path) -> None:
        subprocess.run(["docker", "save", "--output", archive, name], check=True)


def _build_by_stages(
    build: list[str | Path], uv_cache: Path, name: str, rest: list[str | Path]
) -> None:
    """Build the stage "tools" as an image, then all with that image in the place of the stage.

    In one go, a stage that comes from the cache is empty for a step that mounts it (buildah 1.28).
    """
    uv_cache.mkdir(parents=True, exist_ok=True)
    build = [*build, "--layers", "--force-rm", "--volume", f"{uv_cache}:/run/uv-cache"]
    subprocess.run([*build, "--target", "tools", "--tag", TOOLS_STAGE, *rest], check=True)
    tools = f"tools=container-image://{TOOLS_STAGE}"
    subprocess.run([*build, "--build-context", tools, "--tag", name, *rest], check=True)


def _flags(containerfile: Path, arguments: list[str], lent: dict[str, Path]) -> list[str | Path]:
    flags: list[str | Path] = ["--file", containerfile]
    for argument in arguments:
        flags += ["--build-arg", argument]
    for key, path in lent.items():
        flags += ["--secret", f"id={key},src={path}"]
    return flags
