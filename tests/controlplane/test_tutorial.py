"""The tutorial's shell commands, as they stand, against a control plane whose stages pretend."""

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.build import program
from tests.cluster.control_plane import control_plane
from tests.cluster.fake_stages import fake_stages
from tests.cluster.skips import skip_without_programs
from tests.controlplane.operator_process import operator

PAGE = Path("docs/tutorial.md")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
SHELL = ["bash", "-euo", "pipefail", "-c"]


@pytest.mark.timeout(300)
def test_every_command_of_the_tutorial_does_what_the_page_says(tmp_path: Path) -> None:
    for name in ("charts", "examples", ".venv"):
        (tmp_path / name).symlink_to(Path(name).absolute())
    with ExitStack() as stack:
        with skip_without_programs():
            helm = Path(program("helm"))
            # Its own, for here the chart brings the CRD.
            cluster = stack.enter_context(control_plane())
        variables = {
            **cluster.environment,
            "PATH": f"{helm.parent}:{os.environ['PATH']}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            **{
                f"HELM_{place}_HOME": str(tmp_path / place) for place in ("CACHE", "CONFIG", "DATA")
            },
        }
        exports, said = "", []
        for block in BLOCKS:
            done = subprocess.run(
                [*SHELL, exports + block],
                cwd=tmp_path,
                env=os.environ | variables,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
            said.append(done.stdout)
            exports += "".join(line + "\n" for line in block.splitlines() if "export " in line)
            if "helm install" in block:
                # kwok calls the installed operator's pod running; this one works.
                stack.enter_context(operator(cluster, tmp_path))
                stack.enter_context(fake_stages(cluster, seconds=0.5))
        text = "".join(said)

    assert "run.yaml: valid\n" in text
    assert "coevolutionrun.rzero.dev/tiny created\n" in text
    assert "coevolutionrun.rzero.dev/tiny condition met\n" in text
    assert re.search(r"^tiny +(Pending|Running)", text, re.MULTILINE)
    assert "wrote report.html\n" in text
    assert re.search(r"s3://rzero/runs/tiny-[0-9a-f]{8}/i000[123]/trainSolver", text)
    assert "Traceback" not in text
    assert (tmp_path / "report.html").exists()
