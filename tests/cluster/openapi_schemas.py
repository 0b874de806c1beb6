"""Turns what an API server says about its kinds into JSON schemas for kubeconform."""

import json
from pathlib import Path
from typing import Any

from tests.cluster.api import Api

LOCATION = "{{ .ResourceKind }}-{{ .Group }}-{{ .ResourceAPIVersion }}.json"


def write_schemas(api: Api, folder: Path) -> str:
    """One strict file for each kind of the server; the value for `kubeconform -schema-location`."""
    for path in api.get("/openapi/v3")["paths"]:
        if path == "api/v1" or (path.startswith("apis/") and path.count("/") == 2):
            schemas = api.get(f"/openapi/v3/{path}")["components"]["schemas"]
            for schema in schemas.values():
                _close(schema)
            for name, schema in schemas.items():
                for kind in schema.get("x-kubernetes-group-version-kind", []):
                    _write(folder, kind, name, schemas)
    return str(folder / LOCATION)


def _write(folder: Path, kind: dict[str, str], name: str, schemas: dict[str, Any]) -> None:
    document = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
    # What kubeconform calls the group of the core kinds is their version.
    file = f"{kind['kind']}-{kind['group'] or kind['version']}-{kind['version']}.json".lower()
    (folder / file).write_text(json.dumps(document))


def _close(schema: Any) -> None:
    """Refuse fields that a schema does not name, as the server does under strict validation."""
    if not isinstance(schema, dict):
        return
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for child in (*schema.get("properties", {}).values(), schema.get("items")):
        _close(child)
    _close(schema.get("additionalProperties"))
