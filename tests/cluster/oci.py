"""Writes an image of a few static programs without any builder."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
TYPE = "application/vnd.oci.image"


def write_image(
    archive: Path, name: str, programs: Mapping[str, Path], entrypoint: Sequence[str]
) -> None:
    """Write an OCI archive (tar) of an image called `name` with `programs` by their path in it."""
    layer = _layer(programs)
    config = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "Cmd": ["pause"], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs: dict[str, bytes] = {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{TYPE}.manifest.v1+json",
        "config": _add(blobs, f"{TYPE}.config.v1+json", _json(config)),
        "layers": [_add(blobs, f"{TYPE}.layer.v1.tar", layer)],
    }
    described = _add(blobs, f"{TYPE}.manifest.v1+json", _json(manifest))
    described["annotations"] = {"io.containerd.image.name": name}
    index = {"schemaVersion": 2, "manifests": [described]}
    with tarfile.open(archive, "w") as tar:
        _put(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _put(tar, "index.json", _json(index))
        for digest, data in blobs.items():
            _put(tar, f"blobs/sha256/{digest}", data)


def _layer(programs: Mapping[str, Path]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, program in programs.items():
            _put(tar, path.lstrip("/"), program.read_bytes(), mode=0o755)
    return out.getvalue()


def _add(blobs: dict[str, bytes], media_type: str, data: bytes) -> dict[str, Any]:
    digest = _digest(data)
    blobs[digest.removeprefix("sha256:")] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _put(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
