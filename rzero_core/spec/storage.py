"""Where the artifacts of a run lie."""

import re
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from rzero_core.spec.rules import S3_BUCKET, Rule, Ruled, http_url, object_name, path_or_uri


class Storage(Ruled):
    """Where artifacts lie."""

    uri: str = Field(min_length=1, max_length=1024)
    """Root of all artifacts: `s3://bucket/prefix`, `file:///path`, or a plain path."""
    endpoint: str | None = Field(None, max_length=1024)
    """URL of an S3-compatible server; absent for AWS."""
    region: str | None = Field(None, max_length=64)
    """S3 region."""
    secret_name: str | None = Field(None, max_length=253)
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, referenced by stage pods only."""
    checksums: Literal["WhenSupported", "WhenRequired"] = "WhenSupported"
    """Request checksums; `WhenRequired` for stores that reject the newer headers."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        path_or_uri(
            "uri",
            f"{S3_BUCKET}(/.*)?|file://.*[^/].*",
            "write s3://bucket/prefix (a bucket name has 3 to 63 characters), file:///path or a "
            "plain path",
        ),
        http_url("endpoint"),
        object_name("secretName", "Secret"),
    )

    @field_validator("uri")
    @classmethod
    def _without_slash_at_the_end(cls, uri: str) -> str:
        # Those of `/` and `file://` are no such slashes.
        return re.sub("(?<=[^:/])/+$", "", uri)
