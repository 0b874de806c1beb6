"""What the two images promise: no root, no compiler, what the lock pins, a read-only root."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster import images as built_images
from tests.cluster.image_runs import MountedImage, mounted

ROOT = Path(__file__).parents[2]
GIGABYTE = 1_000_000_000
COMPILERS = re.compile(r"(.*-)?(cc|gcc|g\+\+|c\+\+|clang|clang\+\+|ld|as|make|rustc|go)(-[0-9.]+)?")
INSTALLERS = re.compile(r"pip[0-9.]*|uv|uvx|easy_install.*|hatch(ling)?")

ASK_THE_ENGINE = """
import json, subprocess, sys, time, urllib.request

server = subprocess.Popen(
    [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port=8000",
     "--model=examples/tiny/model", "--max-model-len=128", "--enforce-eager"]
)
while server.poll() is None:
    try:
        urllib.request.urlopen("http://127.0.0.1:8000/health", timeout=2)
        break
    except OSError:
        time.sleep(0.5)
ask = {"model": "examples/tiny/model", "prompt": "1+1=", "max_tokens": 5}
headers = {"Content-Type": "application/json"}
url = "http://127.0.0.1:8000/v1/completions"
request = urllib.request.Request(url, json.dumps(ask).encode(), headers)
print(urllib.request.urlopen(request, timeout=60).read().decode(), flush=True)
server.terminate()
sys.exit(server.wait(60))
"""


@pytest.fixture(scope="module")
def images() -> built_images.Images:
    if os.geteuid() != 0:
        pytest.skip("images are built and run by root")
    for program in ("buildah", "runc"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}: install Debian's package {program}")
    return built_images.images()


@pytest.fixture(scope="module")
def mounts(images: built_images.Images) -> Iterator[dict[str, MountedImage]]:
    store = built_images.store()
    with ExitStack() as stack:
        yield {
            "operator": stack.enter_context(mounted(store, images.operator, images.operator_name)),
            "stages": stack.enter_context(mounted(store, images.stages, images.stages_name)),
        }


@pytest.fixture(params=["operator", "stages"])
def image(request: pytest.FixtureRequest, mounts: dict[str, MountedImage]) -> MountedImage:
    return mounts[request.param]


@pytest.fixture
def operator(mounts: dict[str, MountedImage]) -> MountedImage:
    return mounts["operator"]


@pytest.fixture
def stages(mounts: dict[str, MountedImage]) -> MountedImage:
    return mounts["stages"]


def test_a_process_of_the_image_is_not_root_and_cannot_write_to_the_root(
    image: MountedImage,
) -> None:
    ran = image.run("sh", "-c", "id -u; touch /opt/rzero/x; touch /tmp/x && echo written")
    assert ran.stdout.split() == ["65532", "written"]
    assert "Read-only file system" in ran.stderr


def test_an_image_has_neither_compiler_nor_installer(image: MountedImage) -> None:
    programs = [
        path.name
        for folder in ("usr/bin", "usr/sbin", "usr/local/bin", "opt/venv/bin")
        for path in (image.root / folder).iterdir()
    ]
    assert [name for name in programs if COMPILERS.fullmatch(name)] == []
    assert [name for name in programs if INSTALLERS.fullmatch(name)] == []
    assert image.run("python", "-c", "import pip").returncode == 1


def test_the_sizes_stay_within_limits(images: built_images.Images) -> None:
    assert images.operator.stat().st_size < 0.4 * GIGABYTE
    assert images.stages.stat().st_size < 6.5 * GIGABYTE


def test_an_image_holds_exactly_what_the_lock_pins(image: MountedImage) -> None:
    listing = (
        "from importlib.metadata import distributions as d;"
        "print('\\n'.join(f'{x.name}=={x.version}'.lower() for x in d()))"
    )
    installed = {_normal(line) for line in image.run("python", "-c", listing).stdout.split()}
    lock = (ROOT / "requirements.lock").read_text()
    pinned = {_normal(pin) for pin in re.findall(r"^\S+==[^ ;]+", lock, re.MULTILINE)}
    assert len(installed) > 40
    assert {line for line in installed - pinned if not line.startswith("rzero==")} == set()


def test_nothing_of_the_host_stays_in_an_image(image: MountedImage) -> None:
    left = [path for path in (image.root / "run").rglob("*") if not path.is_dir()]
    assert left == []
    assert not (image.root / "tools").exists()
    assert list((image.root / "tmp").iterdir()) == []
    names = {pair.split("=", 1)[0] for pair in image.config["Env"]}
    assert names.isdisjoint({*built_images.HOST_VARIABLES, "SSL_CERT_FILE", "UV_CACHE_DIR"})


def test_the_operator_image_runs_kopf_and_holds_nothing_of_the_stages(
    operator: MountedImage,
) -> None:
    assert operator.run("rzero", "--help").returncode == 0
    ran = operator.run("python", "-c", "import kopf, kubernetes, rzero_operator.plan")
    assert (ran.returncode, ran.stderr) == (0, "")
    for absent in ("torch", "rzero_stages"):
        assert "No module" in operator.run("python", "-c", f"import {absent}").stderr


def test_the_stages_image_without_a_task_says_what_is_missing(stages: MountedImage) -> None:
    ran = stages.run()
    assert ran.returncode == 64
    assert "RZERO_TASK is not set; it holds the task as JSON" in ran.stderr


def test_the_stages_image_samples_from_the_tiny_model_by_its_relative_path(
    stages: MountedImage,
) -> None:
    program = (
        "from transformers import pipeline\n"
        "generate = pipeline('text-generation', 'examples/tiny/model')\n"
        "print(len(generate('1+1=', max_new_tokens=2)))\n"
    )
    ran = stages.run("python", "-c", program)
    assert ran.stdout.strip() == "1", ran.stderr
    assert (stages.root / "opt/rzero/examples/tiny/heldout.jsonl").is_file()
    assert (stages.root / "opt/rzero/examples/tiny/model-bad").is_dir()


def test_the_engine_of_the_stages_image_answers_without_a_compiler(stages: MountedImage) -> None:
    limits = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    ran = stages.run("python", "-c", ASK_THE_ENGINE, env=limits, timeout=300)
    assert '"object":"text_completion"' in ran.stdout, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert ran.returncode == 0


def test_a_second_build_of_the_same_tree_needs_no_builder(
    images: built_images.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = built_images.options_of(dict(os.environ))
    first = built_images.operator_image(options)
    monkeypatch.setenv("PATH", "/nowhere")
    assert built_images.operator_image(options) == first


def _normal(pin: str) -> str:
    name, version = pin.lower().split("==")
    return f"{re.sub(r'[-_.]+', '-', name)}=={version}"
