"""Overlays on the defaults: a field that a manifest leaves out takes its preset's value."""

from enum import StrEnum
from typing import Any


class Preset(StrEnum):
    """Where the values of fields come from that the manifest leaves out."""

    PAPER = "paper"
    """arXiv 2508.05004, appendix."""
    REFERENCE = "reference"
    """The values of the published code, without its defects."""
    IMPROVED = "improved"
    """The defaults beside the fields."""


PRESETS: dict[Preset, dict[str, Any]] = {
    # The paper's appendix; it shares these values between the two roles.
    Preset.PAPER: {
        "challenger": {"baseline": "Group"},
        "questions": {"nearDuplicate": 1.0, "topUps": 0},
    },
    # scripts/ and examples/config.yaml of the published code, commit 5699329.
    Preset.REFERENCE: {
        "challenger": {
            "batchSize": 512,
            "updateBatchSize": 16,
            "clipHigh": 0.3,
            "baseline": "Group",
            "reward": "Reference",
            "similarity": "NltkMethod1",
        },
        "questions": {
            "nearDuplicate": 1.0,
            "topUps": 0,
            "sampling": {"topP": 0.95, "maxTokens": 4096},
        },
        "labels": {
            "votes": 9,
            "minAgreement": 0.3,
            "maxAgreement": 0.8,
            "sampling": {"topP": 1.0, "topK": 40, "maxTokens": 4096},
        },
        "solver": {
            "batchSize": 512,
            "updateBatchSize": 128,
            "clipHigh": 0.3,
            "formatWeight": 0.1,
            "sampling": {"maxTokens": 4096},
        },
    },
    Preset.IMPROVED: {},
}


def overlay(data: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    """`data` with the preset's values where it says nothing."""
    merged = dict(data)
    for key, value in preset.items():
        if key not in merged:
            merged[key] = value
        elif isinstance(value, dict) and isinstance(merged[key], dict):
            merged[key] = overlay(merged[key], value)
    return merged
