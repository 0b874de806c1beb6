"""Models from the Hugging Face hub: `hf://owner/name@revision` becomes a local folder."""

import re
from pathlib import Path

from rzero_core.task import BadConfiguration, TryAgain

# Formats of other frameworks, which often double the size of a repository.
OTHER_FORMATS = ["*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.tflite", "original/*", "onnx/*"]


def snapshot(uri: str) -> Path:
    """Download a model, or find it in the hub's cache. Raises `BadConfiguration` or `TryAgain`."""
    match = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@(.+))?", uri)
    if match is None:
        raise BadConfiguration(f"{uri}: write hf://owner/name@revision")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise BadConfiguration(
            f"{uri}: huggingface_hub is missing; install rzero[stages]"
        ) from error
    name, revision = match.groups()
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=OTHER_FORMATS))
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status == 429 or status >= 500:
            raise TryAgain(f"{uri}: the hub answered {status}") from error
        raise BadConfiguration(
            f"{uri}: the hub answered {status or type(error).__name__}; correct owner, name and "
            "revision in spec.model, and set HF_TOKEN if the model is private or gated"
        ) from error
    except (OSError, ValueError) as error:
        # Without network the hub's client reports that nothing is in its cache.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadConfiguration(
            f"{uri}: {reason}; correct spec.model, or give this machine access to "
            "huggingface.co, or name a local copy of the model"
        ) from error
