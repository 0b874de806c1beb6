"""The operator's metrics, read from the page that a scrape gets."""

import time
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from metric_makers import full_spec, full_status, known
from plan_world import DATASETS, World, make_spec
from prometheus_client.parser import text_string_to_metric_families

from rzero_core.run import RunSpec, Stage
from rzero_core.status import (
    EarlierLabelAccuracy,
    IterationStatus,
    LabelAccuracyStatus,
    RunStatus,
    StageState,
    StageStatus,
)
from rzero_operator.metrics import Metrics
from rzero_operator.run_gauges import NEWEST_ITERATIONS
from rzero_operator.tasks import Step

MOST_SERIES = 25_000
MOST_SECONDS = 1.0
RUN = ("ml", "demo")

# As documented; alerts, dashboards and users' own queries rely on them.
DOCUMENTED = {
    "rzero_run_info",
    "rzero_run_phase",
    "rzero_run_paused",
    "rzero_run_iterations",
    "rzero_run_completed_iterations",
    "rzero_run_current_stage",
    "rzero_run_last_progress_timestamp_seconds",
    "rzero_run_stage_attempts",
    "rzero_run_preemptions",
    "rzero_run_pseudo_label_accuracy_ratio",
    "rzero_run_pseudo_label_accuracy_lower_ratio",
    "rzero_run_pseudo_label_accuracy_upper_ratio",
    "rzero_run_pseudo_label_accuracy_upper90_ratio",
    "rzero_run_pseudo_label_accuracy_baseline_ratio",
    "rzero_run_pseudo_label_accuracy_baseline_lower_ratio",
    "rzero_run_pseudo_label_accuracy_best_ratio",
    "rzero_run_pseudo_label_accuracy_floor_ratio",
    "rzero_run_pseudo_label_accuracy_max_drop_ratio",
    "rzero_run_pseudo_label_accuracy_sample_size",
    "rzero_run_questions",
    "rzero_run_solver_agreement_ratio",
    "rzero_run_solver_score_ratio",
    "rzero_run_storage_bytes",
    "rzero_iteration_pseudo_label_accuracy_ratio",
}
ACCURACY = "rzero_run_pseudo_label_accuracy"


class Page:
    """What a scrape brought."""

    def __init__(self, metrics: Metrics) -> None:
        families = text_string_to_metric_families(metrics.render().decode())
        self.samples = [sample for family in families for sample in family.samples]

    def of(self, name: str, **labels: str) -> float | None:
        """The value of one series, None where it is not there."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1, f"{name}{labels} is not one series: {found}"
        return found[0] if found else None

    def names(self, **labels: str) -> set[str]:
        return {sample.name for sample in self.samples if labels.items() <= sample.labels.items()}


def stage(stage: Stage, state: StageState = StageState.DONE, **fields: Any) -> StageStatus:
    return StageStatus(stage=stage, state=state, **fields)


def accurate(*reports: LabelAccuracyStatus | None) -> RunStatus:
    """A run of which iteration 1 and so on have these reports."""
    return RunStatus(
        iterations=[
            IterationStatus(iteration=number, label_accuracy=report)
            for number, report in enumerate(reports, start=1)
        ]
    )


def page_of(status: RunStatus, **fields: Any) -> Page:
    metrics = Metrics()
    metrics.seen(*RUN, make_spec(**fields), status)
    return Page(metrics)


def test_200_runs_of_50_iterations_stay_within_series_and_time() -> None:
    metrics = Metrics()
    spec, status = full_spec(), full_status(50)
    for number in range(200):
        metrics.seen("ml", f"run-{number}", spec, status)
    # Processor time: a busy machine makes no scrape dearer.
    began = time.process_time()
    page = metrics.render()
    seconds = time.process_time() - began
    series = sum(not line.startswith(b"#") for line in page.splitlines())
    print(f"{series} series, {len(page)} bytes, {seconds:.2f} s")
    assert 200 * 100 < series < MOST_SERIES
    assert seconds < MOST_SECONDS


def test_a_run_exports_all_documented_gauges_with_its_name() -> None:
    page = page_of(full_status(2), evaluation=DATASETS)
    assert page.names(namespace="ml", run="demo") >= DOCUMENTED


def test_no_label_tells_a_pod_or_a_job() -> None:
    page = page_of(full_status(2))
    labels = {label for sample in page.samples for label in sample.labels}
    assert not labels & {"pod", "job", "uid", "digest", "attempt"}


def test_the_gauges_of_a_deleted_run_vanish_and_those_of_others_stay() -> None:
    metrics = Metrics()
    for name in ("one", "two"):
        metrics.seen("ml", name, make_spec(), full_status(1))
    metrics.gone("ml", "one")
    metrics.gone("ml", "never-seen")
    assert Page(metrics).names(run="one") == set()
    assert Page(metrics).names(run="two") >= DOCUMENTED


def test_a_new_run_has_its_thresholds_and_no_estimate() -> None:
    page = page_of(RunStatus(), labelAccuracy={"floor": 0.55, "maxDrop": 0.2})
    assert page.of(f"{ACCURACY}_floor_ratio") == 0.55
    assert page.of(f"{ACCURACY}_max_drop_ratio") == 0.2
    assert page.of(f"{ACCURACY}_ratio") is None
    assert page.of("rzero_run_last_progress_timestamp_seconds") is None
    assert page.of("rzero_run_phase", phase="Pending") == 1
    assert page.of("rzero_run_phase", phase="Running") == 0


def test_what_a_run_is_made_of_is_told_once() -> None:
    page = page_of(RunStatus(), queueName="research")
    wanted = {"base_model": "base", "queue": "research", "auditor": "None"}
    assert page.of("rzero_run_info", **wanted) == 1


def test_the_newest_estimate_stands_beside_the_first_and_the_best() -> None:
    page = page_of(accurate(known("0.79"), known("0.81", lower="0.75"), known("0.63", "0.56")))
    assert page.of(f"{ACCURACY}_ratio") == 0.63
    assert page.of(f"{ACCURACY}_lower_ratio") == 0.56
    assert page.of(f"{ACCURACY}_upper_ratio") == 0.9
    assert page.of(f"{ACCURACY}_baseline_ratio") == 0.79
    assert page.of(f"{ACCURACY}_baseline_lower_ratio") == 0.5
    assert page.of(f"{ACCURACY}_best_ratio") == 0.81
    assert page.of(f"{ACCURACY}_best_lower_ratio") == 0.75
    assert page.of(f"{ACCURACY}_iteration") == 3
    assert page.of(f"{ACCURACY}_info", method="oracle/1") == 1
    assert page.of("rzero_iteration_pseudo_label_accuracy_ratio", iteration="2") == 0.81


def test_estimates_by_another_method_are_no_baseline() -> None:
    page = page_of(accurate(known("0.95", method="oracle/0"), known("0.7"), known("0.6")))
    assert page.of(f"{ACCURACY}_baseline_ratio") == 0.7
    assert page.of(f"{ACCURACY}_best_ratio") == 0.7


def test_what_a_new_method_judged_again_is_its_baseline() -> None:
    earlier = EarlierLabelAccuracy(estimate="0.8", lower="0.74", upper="0.85", sample_size=200)
    again = known("0.7").model_copy(update={"earlier": earlier})
    page = page_of(accurate(known("0.95", method="oracle/0"), again, known("0.6")))
    assert page.of(f"{ACCURACY}_baseline_ratio") == 0.8
    assert page.of(f"{ACCURACY}_baseline_lower_ratio") == 0.74
    assert page.of(f"{ACCURACY}_best_ratio") == 0.8


def test_an_iteration_without_an_estimate_keeps_the_last_one_and_says_how_many_abstained() -> None:
    unknown = LabelAccuracyStatus(sample_size=0, abstained=300, method="oracle/1")
    page = page_of(accurate(known("0.7"), unknown))
    assert page.of(f"{ACCURACY}_ratio") == 0.7
    assert page.of(f"{ACCURACY}_iteration") == 1
    assert page.of(f"{ACCURACY}_sample_size") == 0
    assert page.of(f"{ACCURACY}_abstained") == 300


def test_an_upper_bound_is_not_exported_as_an_estimate() -> None:
    page = page_of(accurate(known("0.9", method="triplet", is_upper_bound=True)))
    assert page.of(f"{ACCURACY}_at_most_ratio") == 0.9
    assert page.of(f"{ACCURACY}_ratio") is None
    assert page.of(f"{ACCURACY}_sample_size") is None


def test_the_history_is_bounded_to_the_newest_iterations() -> None:
    page = page_of(accurate(*[known("0.7")] * (NEWEST_ITERATIONS + 10)))
    name = "rzero_iteration_pseudo_label_accuracy_ratio"
    history = {s.labels["iteration"] for s in page.samples if s.name == name}
    assert history == {str(number) for number in range(11, NEWEST_ITERATIONS + 11)}


def test_questions_of_all_rounds_are_counted_up_to_the_newest_curriculum() -> None:
    built = {"questions": "19", "kept": "4", "tooEasy": "5", "tooHard": "3", "duplicates": "2"}
    built |= {"nearDuplicates": "1", "unlabelled": "2", "ties": "2", "agreementSum": "8.5"}
    built |= {"agreement03": "7"}
    rounds = [
        stage(each, round=round, metrics=metrics)
        for round, last in ((1, {"kept": "1", "short": "1"}), (2, built))
        for each, metrics in (
            (Stage.GENERATE_QUESTIONS, {"questions": "10", "malformed": "1"}),
            (Stage.LABEL_QUESTIONS, {"questions": "9"}),
            (Stage.BUILD_CURRICULUM, last),
        )
    ]
    under_way = [stage(Stage.GENERATE_QUESTIONS, metrics={"questions": "10"})]
    page = page_of(
        RunStatus(
            iterations=[
                IterationStatus(iteration=1, stages=rounds),
                IterationStatus(iteration=2, stages=under_way),
            ]
        )
    )
    counts = {"generated": 20, "unparsable": 2, "voted": 18, "kept": 4, "too_easy": 5}
    counts |= {"too_hard": 3, "duplicate": 3, "unlabelled": 2, "tie": 2}
    for state, count in counts.items():
        assert page.of("rzero_run_questions", state=state) == count, state
    assert page.of("rzero_run_solver_agreement_ratio") == 0.5
    assert page.of("rzero_run_agreement_questions", agreement="0.3") == 7
    assert page.of("rzero_run_agreement_questions", agreement="1.0") == 0


def test_scores_are_of_the_newest_solver_and_of_the_base_model() -> None:
    scores = {0: {"heldout.mean": "0.2", "heldout.meanLower": "0.1"}, 1: {"heldout.mean": "0.3"}}
    groups = [
        IterationStatus(iteration=number, stages=[stage(Stage.EVALUATE, metrics=metrics)])
        for number, metrics in scores.items()
    ]
    failed = stage(Stage.EVALUATE, StageState.FAILED)
    groups.append(IterationStatus(iteration=2, stages=[failed]))
    page = page_of(RunStatus(iterations=groups))
    assert page.of("rzero_run_base_score_ratio", benchmark="heldout") == 0.2
    assert page.of("rzero_run_solver_score_ratio", benchmark="heldout") == 0.3


def test_a_run_that_the_plan_drives_is_followed_to_its_end() -> None:
    metrics = Metrics()
    world = World(make_spec(iterations=2, evaluation=DATASETS))
    world.walk(until=Step(2, Stage.TRAIN_CHALLENGER))
    metrics.seen(*RUN, world.spec, world.status)
    page = Page(metrics)
    assert page.of("rzero_run_iterations") == 2
    assert page.of("rzero_run_completed_iterations") == 1
    assert page.of("rzero_run_current_stage", stage="trainChallenger") == 1
    assert page.of("rzero_run_stage_attempts", stage="evaluate") == 2
    assert page.of("rzero_run_last_progress_timestamp_seconds") == world.now.timestamp()
    world.walk()
    metrics.seen(*RUN, world.spec, world.status)
    page = Page(metrics)
    assert page.of("rzero_run_completed_iterations") == 2
    assert page.of("rzero_run_phase", phase="Succeeded") == 1
    assert page.of("rzero_run_current_stage", stage="evaluate") == 0


def test_budgets_reach_one_when_the_run_fails_for_them() -> None:
    metrics = Metrics()
    settings = {"trainChallenger": {"maxRetries": 1, "maxPreemptions": 3}}
    world = World(make_spec(stages=settings))
    world.turn()
    world.end(**{"state": "Failed", "preempted": True, "message": "drained"})
    world.turn()
    world.fail()
    world.turn()
    metrics.seen(*RUN, world.spec, world.status)
    page = Page(metrics)
    assert page.of("rzero_run_preemptions") == 1
    assert page.of("rzero_run_preemption_budget_used_ratio") == 0.25
    assert page.of("rzero_run_retry_budget_used_ratio") == 0.5
    world.now += timedelta(minutes=10)
    world.turn()
    world.fail()
    world.turn()
    metrics.seen(*RUN, world.spec, world.status)
    assert Page(metrics).of("rzero_run_phase", phase="Failed") == 1
    assert Page(metrics).of("rzero_run_retry_budget_used_ratio") == 1


def test_a_stage_is_timed_once_when_it_ends_and_not_again_by_a_new_operator() -> None:
    times = {"started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:02:00Z"}
    running = stage(Stage.TRAIN_SOLVER, StageState.RUNNING, started_at=times["started_at"])
    ended = stage(Stage.TRAIN_SOLVER, **times)
    first, second = Metrics(), Metrics()
    spec = make_spec()
    for metrics, entries in ((first, (running, ended, ended)), (second, (ended, ended))):
        for entry in entries:
            status = RunStatus(iterations=[IterationStatus(iteration=1, stages=[entry])])
            metrics.seen(*RUN, spec, status)
    labels = {"stage": "trainSolver", "outcome": "succeeded"}
    assert Page(first).of("rzero_stage_duration_seconds_count", **labels) == 1
    assert Page(first).of("rzero_stage_duration_seconds_sum", **labels) == 120
    assert Page(second).of("rzero_stage_duration_seconds_count", **labels) is None


def test_the_operator_tells_of_its_own_work() -> None:
    metrics = Metrics()
    metrics.watch_queue(lambda: 3, lambda: 1.5)
    metrics.reconciled("ok", 0.02)
    metrics.gap(1.2)
    metrics.api_request("PATCH", 409)
    before = time.time()
    metrics.watch_event("jobs")
    page = Page(metrics)
    assert page.of("rzero_workqueue_depth") == 3
    assert page.of("rzero_workqueue_oldest_age_seconds") == 1.5
    assert page.of("rzero_reconcile_total", result="ok") == 1
    assert page.of("rzero_reconcile_total", result="error") == 0
    assert page.of("rzero_reconcile_duration_seconds_bucket", le="0.025") == 1
    assert page.of("rzero_reconcile_duration_seconds_bucket", le="0.01") == 0
    assert page.of("rzero_stage_gap_seconds_sum") == 1.2
    assert page.of("rzero_api_requests_total", verb="PATCH", code="409") == 1
    assert (page.of("rzero_watch_last_event_timestamp_seconds", resource="jobs") or 0) >= before
    assert page.of("rzero_build_info") == 1


def test_two_operators_in_one_process_have_registries_of_their_own() -> None:
    one, two = Metrics(), Metrics()
    one.reconciled("error", 0.1)
    assert Page(two).of("rzero_reconcile_total", result="error") == 0


@pytest.mark.parametrize("spec", [make_spec(), make_spec(model='quo"ted\\\nmodel')])
def test_a_scrape_beside_reconciles_is_whole(spec: RunSpec) -> None:
    metrics = Metrics()
    status = full_status(3)

    def reconcile() -> None:
        for number in range(100):
            metrics.seen("ml", f"run-{number % 10}", spec, status)
            metrics.gone("ml", f"run-{(number + 5) % 10}")

    worker = Thread(target=reconcile)
    worker.start()
    while worker.is_alive():
        Page(metrics)
    worker.join()
    assert Page(metrics).of("rzero_run_info", run="run-9", base_model=spec.model) == 1


def test_a_replica_that_no_longer_leads_shows_no_run_and_times_no_stage_twice() -> None:
    metrics = Metrics()
    status = full_status(3)
    for name in ("one", "two"):
        metrics.seen("ml", name, make_spec(), status)
    metrics.clear()
    assert not Page(metrics).names(namespace="ml")
    metrics.seen("ml", "one", make_spec(), status)
    page = Page(metrics)
    assert page.names(run="one") and not page.names(run="two")
    assert not {name for name in page.names() if name == "rzero_stage_duration_seconds_count"}
