"""An oracle costs calls and tokens, and no server can make it cost more than was allowed."""

from pathlib import Path
from typing import Any

import pytest
from audit_makers import audit, found, judge, judge_at, oracle, spider_pool, spiders, task
from oracle_server import Reply, asked, legs, oracle_server, says

from rzero_core.run import Oracle
from rzero_stages.oracle_endpoint import CONNECTIONS
from rzero_stages.oracle_identity import ORACLE_PROMPT


def test_the_budget_of_calls_holds_and_what_is_left_abstains(tmp_path: Path) -> None:
    outcome, calls = judge(tmp_path, legs, 40, max_calls=30)
    assert calls == 30
    assert outcome.result.sample_size < 20 and outcome.result.abstained > 20
    assert "maxCalls is used up" in {row.why for row in outcome.verdicts}
    # A random part was judged, not the strata that came first.
    assert len({row.agreement for row in outcome.verdicts if row.right is not None}) > 2


def test_failed_calls_of_an_attempt_before_count_against_the_budget(tmp_path: Path) -> None:
    def fails(body: dict[str, Any]) -> Reply:
        return (404, {}, b"") if int(asked(body).split()[4]) % 2 else legs(body)

    with oracle_server(fails) as (url, requests):
        first = judge_at(tmp_path, url, 12, samples=1, max_calls=16)
        assert (len(requests), first.metrics["oracleCalls"]) == (12, 12)
        # The pod was lost before its curriculum was there: six questions are asked again.
        second = judge_at(tmp_path, url, 12, samples=1, max_calls=16)
    assert (len(requests), second.metrics["oracleCalls"]) == (16, 16)


@pytest.mark.parametrize("damaged", ["manifest.json", "oracle.jsonl"])
@pytest.mark.parametrize("step", [1, 2])
def test_answers_that_are_damaged_are_asked_for_again_and_stop_nothing(
    tmp_path: Path, damaged: str, step: int
) -> None:
    with oracle_server(legs) as (url, requests):
        first = judge_at(tmp_path, url, 100, samples=1)
        # The pod was lost before its curriculum was there, and one of two saved batches damaged.
        saved = Path(task(tmp_path, oracle(url)).prefix) / "oracle"
        (saved / f"step-000{step}" / damaged).write_text('{"of": "another version"}')
        second = judge_at(tmp_path, url, 100, samples=1)
        asked_again = len(requests) - 100
        third = judge_at(tmp_path, url, 100, samples=1)
    assert first.result == second.result == third.result
    # What is paid again is saved under a number of its own, and not paid a third time.
    assert asked_again == (64 if step == 1 else 36) and len(requests) == 100 + asked_again


def test_a_sample_is_not_enlarged_beyond_what_the_budget_can_pay(tmp_path: Path) -> None:
    with oracle_server(legs) as (url, requests):
        pool = spider_pool(400, lambda n: n % 4 > 0)
        result = audit(tmp_path, pool, oracle(url, 30, max_calls=155))
    assert result.metrics["auditLooks"] == 2.0
    assert (found(result).sample_size, found(result).abstained, len(requests)) == (60, 0, 120)


def test_looks_that_a_lost_attempt_paid_for_are_taken_again_at_no_cost(tmp_path: Path) -> None:
    pool = spider_pool(400, lambda n: n % 4 > 0)
    with oracle_server(legs) as (url, requests):
        first = audit(tmp_path, pool, oracle(url, 40, max_calls=280))
        assert (first.metrics["auditLooks"], len(requests)) == (3.0, 240)
        # The pod was lost before its curriculum was there; 40 calls would not pay for a look.
        (Path(first.outputs["curriculum"]) / "manifest.json").unlink()
        again = audit(tmp_path, pool, oracle(url, 40, max_calls=280))
    assert (again.metrics["auditLooks"], len(requests)) == (3.0, 240)
    assert found(again) == found(first)


def test_the_budget_of_tokens_holds_and_what_is_left_abstains(tmp_path: Path) -> None:
    outcome, calls = judge(tmp_path, legs, 100, max_total_tokens=5000)
    # Of 107 tokens a call, and those on their way when it was reached.
    assert 47 <= calls <= 47 + CONNECTIONS
    assert outcome.metrics["oracleTokens"] == 107 * calls
    assert outcome.result.sample_size < 35 and outcome.result.abstained > 65
    assert "maxTotalTokens is used up" in {row.why for row in outcome.verdicts}


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        "many",
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": -(10**9), "completion_tokens": -(10**9)},
        {"prompt_tokens": 1.5, "completion_tokens": "7"},
        {"prompt_tokens": None, "completion_tokens": [7]},
    ],
)
def test_a_server_that_does_not_count_its_tokens_is_counted_for(tmp_path: Path, usage: Any) -> None:
    def uncounted(body: dict[str, Any]) -> Reply:
        return says(f"\\boxed{{{8 * int(asked(body).split()[4])}}}", usage)

    outcome, calls = judge(tmp_path, uncounted, 9, samples=1, max_tokens=64)
    # A token a byte, and an answer of full length.
    each = len(ORACLE_PROMPT.system + spiders(1)) + 64
    assert (calls, outcome.metrics["oracleTokens"]) == (9, 9 * each)


def test_a_server_that_claims_too_many_tokens_only_ends_the_audit_sooner(tmp_path: Path) -> None:
    huge = {"prompt_tokens": 10**30, "completion_tokens": 10**30}
    outcome, calls = judge(tmp_path, lambda _: says("\\boxed{8}", huge), 40, samples=1)
    assert calls <= CONNECTIONS
    assert (
        outcome.metrics["oracleTokens"]
        <= CONNECTIONS * Oracle.model_fields["max_total_tokens"].default
    )


@pytest.mark.parametrize(
    ("reply", "counts"),
    [((503, {}, b"busy"), False), ((400, {}, b""), False), ((200, {}, b"not JSON"), True)],
)
def test_a_refused_call_costs_no_tokens_and_one_that_answered_does(
    tmp_path: Path, reply: Reply, counts: bool
) -> None:
    outcome, calls = judge(tmp_path, lambda _: reply, 2, samples=1)
    assert calls >= 2
    assert (outcome.metrics["oracleTokens"] > 2 * 64) == counts


def test_tokens_of_an_attempt_before_count_against_the_budget(tmp_path: Path) -> None:
    def fails(body: dict[str, Any]) -> Reply:
        return (200, {}, b"") if int(asked(body).split()[4]) % 2 else legs(body)

    with oracle_server(fails) as (url, requests):
        first = judge_at(tmp_path, url, 12, samples=1, max_total_tokens=5000)
        spent = int(first.metrics["oracleTokens"])
        assert len(requests) == 12 and spent > 6 * 107
        # The pod was lost before its curriculum was there, and nothing is left to spend.
        second = judge_at(tmp_path, url, 12, samples=1, max_total_tokens=spent)
    assert (len(requests), second.metrics["oracleTokens"]) == (12, spent)
    assert (second.result.sample_size, second.result.abstained) == (6, 6)


def test_a_sample_is_not_enlarged_beyond_the_tokens_that_are_left(tmp_path: Path) -> None:
    with oracle_server(legs) as (url, _):
        pool = spider_pool(400, lambda n: n % 4 > 0)
        # A look of 30 takes 60 calls of 107 tokens; it may take 90.
        result = audit(tmp_path, pool, oracle(url, 30, max_total_tokens=155 * 107))
    assert result.metrics["auditLooks"] == 2.0
    assert (found(result).sample_size, found(result).abstained) == (60, 0)


def test_three_looks_with_long_answers_fit_the_default_budget() -> None:
    default = Oracle(endpoint="http://host", model="m")
    longest = len(ORACLE_PROMPT.system) + 500 + default.max_tokens
    assert 300 * 3 * default.samples * longest < default.max_total_tokens


@pytest.mark.parametrize("code", [400, 404])
def test_an_oracle_that_refuses_every_question_is_given_up(tmp_path: Path, code: int) -> None:
    outcome, calls = judge(tmp_path, lambda _: (code, {}, b"no such model"), 300)
    assert calls < 8 + 2 * CONNECTIONS
    assert (outcome.result.estimate, outcome.result.abstained) == (None, 300)
    last = f"given up after 8 failures in a row: HTTP {code}"
    assert last in {row.why for row in outcome.verdicts}
