"""Merges pod templates: what an administrator and then a run's author want of the pods of a stage.

A strategic merge as `kubectl patch` makes it. Nothing is judged here: what makes no sense as a pod
goes through as it is, for the API server to refuse with its own words.
"""

from typing import Any

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "hostAliases": "ip",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
}
"""What tells the items of a list apart; items of other lists are replaced all together."""
_MERGED_ITEMS = frozenset({"containers", "initContainers"})
"""Lists whose items are merged; elsewhere an item takes the place of the one before it."""


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: objects and keyed lists are merged, null removes, tolerations add."""
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_value(key, merged.get(key), value)
    return merged


def _merge_value(key: str, old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return merge(old, new)
    if isinstance(old, list) and isinstance(new, list):
        if key == "tolerations":
            return [*old, *(item for item in new if item not in old)]
        if key in MERGE_KEYS:
            return _merge_items(key, old, new)
    return new


def _merge_items(key: str, old: list[Any], new: list[Any]) -> list[Any]:
    """Known items in their places, new ones at the end."""
    name = MERGE_KEYS[key]
    merged = list(old)
    for item in new:
        places = [
            place
            for place, known in enumerate(merged)
            if isinstance(item, dict)
            and isinstance(known, dict)
            and name in item
            and known.get(name) == item[name]
        ]
        if not places:
            merged.append(item)
        elif key in _MERGED_ITEMS:
            merged[places[0]] = merge(merged[places[0]], item)
        else:
            merged[places[0]] = item
    return merged
