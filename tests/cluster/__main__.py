"""Keeps a test cluster running in the background for a contributor: `up`, `down`, `kubeconfig`."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.cluster.build import NoGo
from tests.cluster.control_plane import ControlPlane, need_control_plane
from tests.cluster.node import NodeCluster, hold_node, need_node

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rzero/testcluster"
START_SECONDS = 120
SCRIPT = os.path.relpath(Path(__file__).parent / "rzero-testcluster")
Node = Annotated[bool, typer.Option("--node", help="With a real node; needs root.")]


@app.command()
def up(node: Node = False) -> None:
    """Start a cluster, or leave the one that runs."""
    if _owner() is None:
        try:
            need_node() if node else need_control_plane()
        except NoGo as reason:
            _fail(str(reason))
        _start(node)
    typer.echo(f"The test cluster is up; its logs are in {FOLDER / 'cluster/logs'}. Use it:")
    typer.echo(f"  export KUBECONFIG=$({SCRIPT} kubeconfig)")


@app.command()
def down() -> None:
    """End the cluster; nothing of it is left."""
    if (pid := _owner()) is None:
        typer.echo("No test cluster is up.")
    else:
        os.kill(pid, signal.SIGTERM)
        _wait_until_gone()
        typer.echo("The test cluster is down.")
    shutil.rmtree(FOLDER, ignore_errors=True)


@app.command()
def kubeconfig() -> None:
    """Print the path of the admin's kubeconfig."""
    if _owner() is None:
        _fail(f"no test cluster is up: {SCRIPT} up")
    typer.echo(FOLDER / "cluster/kubeconfig")


@app.command(hidden=True)
def serve(node: Node = False) -> None:
    """Be the cluster until SIGTERM; `up` runs this in the background."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (FOLDER / "owner").open("a+") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner.truncate(0)
        owner.write(str(os.getpid()))
        owner.flush()
        folder = FOLDER / "cluster"
        if not node:
            _serve(ControlPlane(_empty(folder)))
        else:
            with hold_node(folder):
                _serve(NodeCluster(_empty(folder)))


def _serve(cluster: ControlPlane) -> None:
    try:
        cluster.start()
        (FOLDER / "ready").touch()
        while True:
            signal.pause()
    finally:
        cluster.stop()
        shutil.rmtree(cluster.folder)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _start(node: bool) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "ready").unlink(missing_ok=True)
    log = FOLDER / "serve.log"
    command = [sys.executable, "-m", "tests.cluster", "serve", *(["--node"] if node else [])]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS
    while not (FOLDER / "ready").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            _fail(f"the test cluster did not start:\n{log.read_text()}")
        time.sleep(0.1)


def _owner() -> int | None:
    """Process of the cluster that runs. It holds a lock, so a stale number does no harm."""
    path = FOLDER / "owner"
    if not path.exists():
        return None
    with path.open() as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(owner.read())
    return None


def _wait_until_gone() -> None:
    deadline = time.monotonic() + START_SECONDS
    while _owner() is not None:
        if time.monotonic() > deadline:
            _fail(f"the test cluster does not end; see {FOLDER / 'serve.log'}")
        time.sleep(0.1)


def _fail(words: str) -> None:
    typer.echo(words, err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
