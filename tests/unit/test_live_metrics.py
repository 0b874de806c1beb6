"""The metrics of a running stage, fetched over HTTP as Prometheus does."""

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from stage_makers import RUN, base
from test_stage_main import COMMAND, curriculum, environment

from rzero_core.run import Questions, Stage
from rzero_core.task import BadConfiguration, GenerateQuestionsTask, StageResult
from rzero_stages import live_metrics, progress
from tests.cluster.processes import free_ports


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def generate(root: Path) -> GenerateQuestionsTask:
    return GenerateQuestionsTask(
        **base(root, Stage.GENERATE_QUESTIONS),
        challenger="",
        questions=Questions(count=4, shards=4),
    )


def scrape(port: int) -> dict[str, float]:
    """The values of all series on the page, by the series as it is written there."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        lines = [line for line in page.read().decode().splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def scrape_when_up(port: int, seconds: float = 60) -> dict[str, float]:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return scrape(port)
        except URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def variables(port: int, linger: int = 0) -> dict[str, str]:
    return {"RZERO_METRICS_PORT": str(port), "RZERO_METRICS_LINGER_SECONDS": str(linger)}


def test_what_a_stage_reports_is_served_with_its_run_and_without_its_pod(
    tmp_path: Path, port: int
) -> None:
    labels = (
        f'{{iteration="1",namespace="default",run="{RUN.name}",'
        'shard="3",stage="generateQuestions"}'
    )
    with live_metrics.served(generate(tmp_path), 3, variables(port)):
        assert scrape(port) == {}
        progress.report(1, 4, "questions")
        assert scrape(port) == {f"rzero_stage_progress_ratio{labels}": 0.25}
        progress.report(4, 4, "questions")
        assert scrape(port) == {f"rzero_stage_progress_ratio{labels}": 1.0}


@pytest.mark.parametrize(
    ("figure", "metric"),
    [
        ("reward", "rzero_stage_reward"),
        ("agreement", "rzero_stage_agreement_ratio"),
        ("rightShare", "rzero_stage_label_match_ratio"),
        ("validShare", "rzero_stage_format_ratio"),
        ("boxedShare", "rzero_stage_format_ratio"),
        ("repetition", "rzero_stage_repetition_penalty"),
        ("kl", "rzero_stage_kl_nats"),
        ("tokensPerSecond", "rzero_stage_tokens_per_second"),
    ],
)
def test_the_figures_of_a_training_step_have_series(
    tmp_path: Path, port: int, figure: str, metric: str
) -> None:
    with live_metrics.served(generate(tmp_path), None, variables(port)):
        progress.report(1, 2, "steps", **{figure: 0.125})
        progress.report(2, 2, "steps")
        values = {series.partition("{")[0]: value for series, value in scrape(port).items()}
    assert values == {metric: 0.125, "rzero_stage_progress_ratio": 1.0}


def test_a_finished_stage_lingers_until_its_last_figures_were_fetched_twice(
    tmp_path: Path, port: int
) -> None:
    task = curriculum(tmp_path).to_json()
    process = subprocess.Popen(
        COMMAND, env=environment(tmp_path, task) | variables(port, 60), stdout=subprocess.DEVNULL
    )
    try:
        scrape_when_up(port)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            try:
                scrape(port)
            except (URLError, ConnectionError):
                break
            time.sleep(0.1)
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert StageResult.model_validate_json((tmp_path / "result").read_text()).metrics["kept"] == 1


def test_a_stage_that_is_scraped_no_more_ends_when_its_time_is_out(
    tmp_path: Path, port: int
) -> None:
    with live_metrics.served(generate(tmp_path), 0, variables(port, 1)):
        scrape(port)
        began = time.monotonic()
    assert 1.0 <= time.monotonic() - began < 5.0


def test_a_stage_that_nobody_scrapes_does_not_linger(tmp_path: Path, port: int) -> None:
    with live_metrics.served(generate(tmp_path), 0, {"RZERO_METRICS_PORT": str(port)}):
        progress.report(4, 4, "questions")
        began = time.monotonic()
    assert time.monotonic() - began < 5.0


def test_a_stage_that_scrapes_are_sure_to_reach_waits_for_two_also_where_none_came_before(
    tmp_path: Path, port: int
) -> None:
    pages: list[dict[str, float]] = []

    def prometheus() -> None:
        for _ in range(live_metrics.LAST_SCRAPES):
            over.wait()
            time.sleep(0.2)
            pages.append(scrape(port))

    over = threading.Event()
    comes = threading.Thread(target=prometheus)
    comes.start()
    with live_metrics.served(generate(tmp_path), 0, variables(port, 60)):
        progress.report(4, 4, "questions")
        began = time.monotonic()
        over.set()
    assert time.monotonic() - began < 30.0
    comes.join()
    assert [list(page.values()) for page in pages] == [[1.0], [1.0]]


def test_it_waits_no_longer_than_two_scrapes_take(tmp_path: Path, port: int) -> None:
    with live_metrics.served(generate(tmp_path), 0, variables(port, 1)):
        progress.report(4, 4, "questions")
        began = time.monotonic()
    assert 1.0 <= time.monotonic() - began < 5.0


def test_a_stage_without_figures_does_not_wait_for_scrapes(tmp_path: Path, port: int) -> None:
    with live_metrics.served(generate(tmp_path), 0, variables(port, 60)):
        began = time.monotonic()
    assert time.monotonic() - began < 5.0


def test_sigterm_cuts_the_lingering_short_and_the_stage_is_still_done(
    tmp_path: Path, port: int
) -> None:
    task = curriculum(tmp_path).to_json()
    lingers = tmp_path / "lingers"
    code = (
        "import sys; from pathlib import Path; from rzero_stages import __main__, live_metrics\n"
        "listen = live_metrics._Told.__enter__\n"
        f"def tell(self):\n    listen(self); Path({str(lingers)!r}).touch()\n"
        "live_metrics._Told.__enter__ = tell\nsys.exit(__main__.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(tmp_path, task) | variables(port, 300)
    )
    try:
        scrape_when_up(port)
        deadline = time.monotonic() + 60
        while not lingers.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert StageResult.model_validate_json((tmp_path / "result").read_text()).metrics["kept"] == 1


def test_a_stage_that_fails_does_not_linger(tmp_path: Path, port: int) -> None:
    began = time.monotonic()
    with pytest.raises(RuntimeError), live_metrics.served(generate(tmp_path), 0, variables(port)):
        raise RuntimeError("broke")
    assert time.monotonic() - began < 5.0
    with pytest.raises(URLError):
        scrape(port)


def test_a_port_that_is_taken_costs_the_metrics_and_not_the_stage(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", port))
        other.listen()
        with live_metrics.served(generate(tmp_path), 0, variables(port, 60)):
            progress.report(1, 4, "questions")
    assert f"no metrics on port {port}" in caplog.text


def test_of_the_processes_that_train_together_only_the_first_serves(
    tmp_path: Path, port: int
) -> None:
    second = variables(port, 60) | {"LOCAL_RANK": "1"}
    with live_metrics.served(generate(tmp_path), None, second), pytest.raises(URLError):
        scrape(port)


@pytest.mark.parametrize("variable", ["RZERO_METRICS_PORT", "RZERO_METRICS_LINGER_SECONDS"])
def test_a_variable_that_is_no_number_is_named(tmp_path: Path, port: int, variable: str) -> None:
    wrong = variables(port) | {variable: "high"}
    with (
        pytest.raises(BadConfiguration, match=variable),
        live_metrics.served(generate(tmp_path), 0, wrong),
    ):
        pass


def test_without_a_port_no_server_is_even_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from rzero_stages import __main__, progress; code = __main__.main();"
        "assert 'prometheus_client' not in sys.modules; sys.exit(code)"
    )
    environ = environment(tmp_path, curriculum(tmp_path).to_json())
    assert subprocess.run([sys.executable, "-c", code], env=environ).returncode == 0


def test_two_scrapes_at_a_time_are_answered(tmp_path: Path, port: int) -> None:
    with live_metrics.served(generate(tmp_path), 0, variables(port)):
        progress.report(1, 4, "questions")
        pages: list[dict[str, float]] = []
        threads = [threading.Thread(target=lambda: pages.append(scrape(port))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(pages) == 8 and all(page == pages[0] for page in pages)
