"""A running stage counts its requests to storage, as Prometheus fetches them."""

from pathlib import Path
from urllib.request import urlopen

from s3_server import S3Server
from stage_makers import base

from rzero_core.run import Questions, Stage, Storage
from rzero_core.store import ArtifactStore
from rzero_core.task import GenerateQuestionsTask
from rzero_stages import live_metrics
from tests.cluster.processes import free_ports


def test_requests_are_counted_by_operation_and_answer(s3: S3Server, tmp_path: Path) -> None:
    (port,), uri = free_ports(1), f"s3://{s3.bucket}/runs"
    storage = Storage(uri=uri, endpoint=s3.endpoint)
    stage = base(tmp_path, Stage.GENERATE_QUESTIONS) | {"storage": storage}
    task = GenerateQuestionsTask(**stage, challenger="", questions=Questions())
    store = ArtifactStore(storage)
    variables = {"RZERO_METRICS_PORT": str(port), "RZERO_METRICS_LINGER_SECONDS": "0"}
    with live_metrics.served(task, 0, variables):
        assert store.manifest(f"{uri}/none") is None
        assert store.manifest(f"{uri}/nothing") is None
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            found = page.read().decode().splitlines()
    assert 'rzero_storage_requests_total{code="404",operation="GetObject"} 2.0' in found
    duration = "rzero_storage_request_duration_seconds"
    assert f'{duration}_count{{operation="GetObject"}} 2.0' in found
