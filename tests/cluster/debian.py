"""Makes the root file systems that the test images start from: a minimal Debian with Python."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SUITE = "bookworm"
RECIPE = f"{SUITE}-2"
"""The number grows when the file systems shall be made anew."""
BASE = f"localhost/rzero-base:{RECIPE}"
TOOLS = f"localhost/rzero-tools:{RECIPE}"
PACKAGES = ["python3", "ca-certificates", "libnuma1"]
VENV = ["python3-venv", "python3-pip-whl", "python3-setuptools-whl", "python3.11-venv"]
"""What the tools of a build need beyond the base: the standard library's pip."""
UNUSED = ["var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man"]


def roots(cache: Path) -> dict[str, Path]:
    """For each of the two images a tar of its root file system, made if it is not there."""
    folder = cache / RECIPE
    made = {BASE: folder / "base.tar", TOOLS: folder / "tools.tar"}
    if not all(path.exists() for path in made.values()):
        _make(folder, made[BASE], made[TOOLS])
    return made


def _make(folder: Path, base: Path, tools: Path) -> None:
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise SystemExit(
            "BASE=debootstrap needs root and Debian's debootstrap: set BASE to an image with "
            "Python >= 3.11, such as BASE=python:3.13-slim"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        root = Path(place) / "root"
        packages = ",".join([*PACKAGES, *VENV])
        debootstrap = ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE]
        subprocess.run([*debootstrap, root, *_mirror()], check=True, stdout=subprocess.DEVNULL)
        for unused in UNUSED:
            shutil.rmtree(root / unused)
            (root / unused).mkdir()
        _pack(root, tools)
        subprocess.run(["chroot", root, "dpkg", "--purge", *VENV], check=True, capture_output=True)
        _pack(root, base)


def _pack(root: Path, archive: Path) -> None:
    unfinished = archive.with_suffix(".unfinished")
    subprocess.run(["tar", "--numeric-owner", "-C", root, "-cf", unfinished, "."], check=True)
    unfinished.replace(archive)


def _mirror() -> list[str]:
    """The mirror that this machine itself uses, if it runs the same Debian; else the default."""
    query = ["--format", "$(SITE)", "Created-By: Packages", f"Codename: {SUITE}"]
    listed = subprocess.run(
        ["apt-get", "indextargets", *query], capture_output=True, text=True, check=False
    )
    return listed.stdout.splitlines()[:1]
