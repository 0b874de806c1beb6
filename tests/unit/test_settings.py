"""The operator's configuration: what the chart sets, and what is said about mistakes in it."""

import json

import pytest

from rzero_operator.settings import Settings

DEFAULTS = {"RZERO_STAGE_DEFAULTS": json.dumps({"image": "stages", "cache": {"emptyDir": {}}})}


def test_all_has_defaults_but_the_image_of_stages() -> None:
    settings = Settings.from_environment(DEFAULTS)
    assert (settings.namespaces, settings.leader_election) == ((), False)
    assert (settings.resync_seconds, settings.http_port, settings.workers) == (60.0, 8080, 16)
    assert (settings.log_format, settings.log_level) == ("text", "INFO")


def test_variables_say_where_and_how_the_operator_works() -> None:
    settings = Settings.from_environment(
        {
            **DEFAULTS,
            "RZERO_NAMESPACES": "one, two,",
            "RZERO_LEADER_ELECTION": "true",
            "POD_NAMESPACE": "rzero-system",
            "POD_NAME": "rzero-0",
            "RZERO_LOG_FORMAT": "json",
            "RZERO_LOG_LEVEL": "DEBUG",
            "RZERO_WORKERS": "4",
            "RZERO_RESYNC_SECONDS": "5",
            "RZERO_HTTP_PORT": "0",
        }
    )
    assert settings.namespaces == ("one", "two")
    assert settings.leader_election
    assert (settings.lease_namespace, settings.identity) == ("rzero-system", "rzero-0")
    assert (settings.log_format, settings.log_level) == ("json", "DEBUG")
    assert (settings.workers, settings.resync_seconds, settings.http_port) == (4, 5.0, 0)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("RZERO_LEADER_ELECTION", "yes", "write false or true, not yes"),
        ("RZERO_LOG_FORMAT", "xml", "write text or json, not xml"),
        ("RZERO_LOG_LEVEL", "loud", "write INFO or DEBUG or WARNING or ERROR, not loud"),
        ("RZERO_WORKERS", "0", "write a whole number of at least 1, not 0"),
        ("RZERO_RESYNC_SECONDS", "1.5", "write a whole number of at least 1, not 1.5"),
        ("RZERO_HTTP_PORT", "-1", "write a whole number of at least 0, not -1"),
    ],
)
def test_a_mistake_names_the_variable_and_the_remedy(name: str, value: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: {remedy}$"):
        Settings.from_environment({**DEFAULTS, name: value})
