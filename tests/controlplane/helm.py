"""Runs the real Helm on the chart, against the test cluster or without one."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.build import program
from tests.cluster.control_plane import ControlPlane

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "charts" / "rzero"
CRD_FILE = "files/crds/rzero.dev_coevolutionruns.yaml"


class HelmError(RuntimeError):
    """What Helm wrote before it failed."""


class Helm:
    """Helm with a home of its own, which it leaves with the test."""

    def __init__(self, home: Path, cluster: ControlPlane | None = None) -> None:
        places = ("CACHE", "CONFIG", "DATA")
        self._environment = {f"HELM_{place}_HOME": str(home / place.lower()) for place in places}
        if cluster is not None:
            self._environment |= cluster.environment

    def __call__(self, *words: str | Path) -> str:
        """What Helm writes. Raises HelmError."""
        done = subprocess.run(
            [program("helm"), *words],
            env=os.environ | self._environment,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout

    def template(self, *words: str | Path) -> str:
        """Manifests of the release `rzero` in the namespace `here`, hooks among them."""
        return self("template", "rzero", CHART, "--namespace", "here", *words)

    def render(self, *words: str | Path) -> list[dict[str, Any]]:
        """The same as objects."""
        return [entry for entry in yaml.safe_load_all(self.template(*words)) if entry]


def one(objects: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """The only object of a kind, or of a kind and name."""
    (found,) = [
        entry
        for entry in objects
        if entry["kind"] == kind and name in (None, entry["metadata"]["name"])
    ]
    return found


def previous_chart(folder: Path) -> Path:
    """The chart of the commit before the one under test; this one where Git knows of none."""
    archive = folder / "chart.tar"
    try:
        changed = _git("status", "--porcelain", "--", "charts/rzero")
        commit = "HEAD" if changed else "HEAD~1"
        _git("archive", f"--output={archive}", commit, "charts/rzero")
    except (OSError, subprocess.CalledProcessError):
        return Path(shutil.copytree(CHART, folder / "charts" / "rzero"))
    shutil.unpack_archive(archive, folder)
    return folder / "charts" / "rzero"


def _git(*words: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
