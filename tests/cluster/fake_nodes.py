"""Nodes that kwok keeps alive without machines; stages.yaml says what happens to pods on them."""

from pathlib import Path

from tests.cluster.api import Api
from tests.cluster.build import program

STAGES = Path(__file__).parent / "kwok" / "stages.yaml"
ANNOTATION = "kwok.x-k8s.io/node"


def add_nodes(api: Api, count: int) -> list[str]:
    """Create `count` nodes named fake-0, fake-1 ..."""
    names = [f"fake-{number}" for number in range(count)]
    for name in names:
        labels = {"kubernetes.io/hostname": name, "type": "kwok"}
        metadata = {"name": name, "annotations": {ANNOTATION: "fake"}, "labels": labels}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        api.request("POST", "/api/v1/nodes", node)
    return names


def kwok_command(kubeconfig: Path) -> list[str | Path]:
    """The command line of kwok for these nodes."""
    return [
        program("kwok"),
        f"--kubeconfig={kubeconfig}",
        f"--config={STAGES}",
        f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
        # Without leases the nodes are called lost after 40 s.
        "--node-lease-duration-seconds=40",
    ]
