"""The S3 client that all requests go through, and what its errors mean: who must act, and where."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as NoConnection,
)
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from urllib3.exceptions import HTTPError

from rzero_core.run import Storage
from rzero_core.task import BadConfiguration, BadData, StageError, TryAgain

T = TypeVar("T")

THREADS = 16
DAMAGE_ATTEMPTS = 4
CHECKSUMS = {"WhenSupported": "when_supported", "WhenRequired": "when_required"}

FAILURES = (
    BotoCoreError,
    ClientError,
    RetriesExceededError,
    S3DownloadFailedError,
    HTTPError,
    ConnectionError,
    TimeoutError,
)
"""All that boto3 raises, or lets through, when a request fails."""

NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
DAMAGED = (
    FlexibleChecksumError,
    IncompleteReadError,
    ResponseStreamingError,
    S3DownloadFailedError,
    RetriesExceededError,
)
UNREACHABLE = (NoConnection, HTTPClientError, HTTPError, ConnectionError, TimeoutError)
WRONG_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "InvalidSecurity",
    "XAdminUserNotFound",  # versitygw
}
CONFLICTS = {"ConditionalRequestConflict", "OperationAborted", "NoSuchUpload"}
BUSY = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "BadDigest"}
WRONG_REGION = {
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "IllegalLocationConstraintException",
}

Observer = Callable[[str, str, float], None]
observers: list[Observer] = []
"""Told of each request, with its retries: operation, HTTP status or name of the error, seconds."""
_BEGAN = "rzero_began"


class Again(TryAgain):
    """Bad luck with a single request or body: worth a few more attempts at once."""


def connect(storage: Storage, attempts: int) -> Any:
    """A client whose puts never replace an object. It sends a request `attempts` times at most."""
    checksums = CHECKSUMS[storage.checksums]
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
        max_pool_connections=2 * THREADS,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        s3={"addressing_style": "path"} if storage.endpoint else {},
    )
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=storage.endpoint,
        region_name=storage.region or ("us-east-1" if storage.endpoint else None),
        config=config,
    )
    # The transfer manager knows no condition (ALLOWED_UPLOAD_ARGS), the requests it sends do.
    for operation in ("PutObject", "CompleteMultipartUpload"):
        client.meta.events.register(f"before-parameter-build.s3.{operation}", _never_replace)
    client.meta.events.register("before-call.s3", _note_begin)
    client.meta.events.register("after-call.s3", _tell_answer)
    client.meta.events.register("after-call-error.s3", _tell_error)
    return client


def _never_replace(params: dict[str, Any], **_: Any) -> None:
    params["IfNoneMatch"] = "*"


def _note_begin(context: dict[str, Any], **_: Any) -> None:
    context[_BEGAN] = time.monotonic()


def _tell_answer(http_response: Any, model: Any, context: dict[str, Any], **_: Any) -> None:
    _tell(model.name, str(http_response.status_code), context)


def _tell_error(exception: Exception, context: dict[str, Any], event_name: str, **_: Any) -> None:
    _tell(event_name.rpartition(".")[2], type(exception).__name__, context)


def _tell(operation: str, code: str, context: dict[str, Any]) -> None:
    seconds = time.monotonic() - context[_BEGAN]
    for observer in observers:
        observer(operation, code, seconds)


def ask(uri: str, work: Callable[[], T]) -> T:
    """Do `work`; again where data came damaged. All errors name the URI and the remedy."""

    def once() -> T:
        try:
            return work()
        except FAILURES as error:
            raise _named(error, uri) from error

    retrying = Retrying(
        stop=stop_after_attempt(DAMAGE_ATTEMPTS),
        wait=wait_exponential_jitter(initial=0.1, max=5.0),
        retry=retry_if_exception_type(Again),
        reraise=True,
    )
    return retrying(once)


def is_missing(error: ClientError) -> bool:
    """Whether the object is not there. A missing bucket is another matter."""
    return error.response.get("Error", {}).get("Code") in {"NoSuchKey", "404", "NotFound"}


def is_taken(error: ClientError) -> bool:
    """Whether a put failed because an object is there."""
    status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status == 412


def _named(error: Exception, uri: str) -> StageError:
    """The error of a stage that says the same, with the URI and the remedy."""
    if isinstance(error, ClientError):
        return _refused(error, uri)
    if isinstance(error, NO_CREDENTIALS):
        return BadConfiguration(
            f"{uri}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a "
            "Secret that has them in storage.secretName"
        )
    if isinstance(error, DAMAGED):
        return Again(f"{uri}: an answer came incomplete or damaged ({_line(error)})")
    if isinstance(error, SSLError):
        return BadConfiguration(
            f"{uri}: {_line(error)}; correct storage.endpoint or name the server's certificate "
            "authority in AWS_CA_BUNDLE"
        )
    if isinstance(error, UNREACHABLE):
        return TryAgain(f"{uri}: storage cannot be reached ({_line(error)})")
    return BadConfiguration(f"{uri}: {_line(error)}; correct the settings under storage")


def _refused(error: ClientError, uri: str) -> StageError:
    """What the server's answer means."""
    answer = error.response.get("Error", {})
    code = str(answer.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{code}: {answer.get('Message') or 'no reason given'}".rstrip(".")
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code in CONFLICTS:
        return Again(f"{uri}: somebody else is writing there ({said})")
    if code in BUSY or status == 429 or (status >= 500 and status != 501):
        return TryAgain(f"{uri}: storage is busy or broken ({said})")
    if code == "NoSuchBucket":
        return BadConfiguration(
            f"{uri}: there is no bucket {bucket}; create it or correct storage.uri and "
            "storage.endpoint"
        )
    if code in WRONG_CREDENTIALS:
        return BadConfiguration(
            f"{uri}: wrong credentials ({said}); correct AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or the Secret in storage.secretName"
        )
    if code in WRONG_REGION or status == 301:
        return BadConfiguration(f"{uri}: wrong region ({said}); correct storage.region")
    if status in {401, 403}:
        return BadConfiguration(
            f"{uri}: access denied ({said}); these credentials need s3:GetObject, s3:PutObject, "
            f"s3:DeleteObject and s3:ListBucket on {bucket}"
        )
    if is_missing(error):
        return BadData(
            f"{uri}: a published file is gone; delete what lies under this prefix and run the "
            "stage again"
        )
    return BadConfiguration(
        f"{uri}: the server refuses the request ({said}); if it does not know newer headers, set "
        "storage.checksums: WhenRequired"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
