"""Held-out scores: greedy, mean@k and maj@k with intervals, and bad files named by line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from stage_makers import Scripted, base, rows, store

from rzero_core.records import ScoredQuestion
from rzero_core.run import Dataset, Evaluation, Prompt, Prompts, Sampling, Stage
from rzero_core.task import MAX_RESULT_BYTES, BadConfiguration, BadData, EvaluateTask
from rzero_stages import evaluate

GOOD = '{"question": "1+1", "answer": "2"}\n{"question": "half of 1", "answer": "0.5"}\n'


def task(
    root: Path, files: dict[str, str | bytes], samples: int = 4, **changes: Any
) -> EvaluateTask:
    """An evaluation of these files, by dataset name."""
    for name, text in files.items():
        (root / f"{name}.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    fields: dict[str, Any] = {
        **base(root, Stage.EVALUATE),
        "solver": str(root / "solver"),
        "evaluation": Evaluation(
            datasets=[Dataset(name=name, uri=str(root / f"{name}.jsonl")) for name in files],
            samples=samples,
            sampling=Sampling(max_tokens=8),
        ),
    }
    return EvaluateTask(**fields | changes)


def test_scores_are_shares_of_right_answers_by_the_votes_equivalence(tmp_path: Path) -> None:
    # The first answer to a question is the greedy one.
    texts = {
        "1+1": ["\\boxed{2}", "\\boxed{2}", "\\boxed{2.0}", "\\boxed{3}", "no box"],
        "half of 1": ["\\boxed{2}", "\\boxed{\\frac12}", "\\boxed{1}", "\\boxed{7}", "\\boxed{7}"],
    }
    sampler = Scripted(lambda question, place: texts[question][place])
    result = evaluate.run(task(tmp_path, {"sums": GOOD}), store(tmp_path), sampler)
    assert result.metrics["sums.greedy"] == 0.5
    assert result.metrics["sums.mean"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert result.metrics["sums.majority"] == 0.5
    first, second = rows(result, "scores", ScoredQuestion)
    assert (first.greedy, first.greedy_right, first.right) == (
        "2",
        True,
        [True, True, False, False],
    )
    assert (first.majority_right, second.majority_right) == (True, False)
    assert second.samples == ["\\frac12", "1", "7", "7"] and second.right[0]


def test_every_interval_holds_its_estimate(tmp_path: Path) -> None:
    lines = "".join(f'{{"question": "{i}", "answer": "{i}"}}\n' for i in range(60))
    sampler = Scripted(lambda question, place: f"\\boxed{{{int(question) // (1 + place % 2)}}}")
    metrics = evaluate.run(task(tmp_path, {"many": lines}), store(tmp_path), sampler).metrics
    for measure in ("greedy", "mean", "majority"):
        lower, upper = metrics[f"many.{measure}Lower"], metrics[f"many.{measure}Upper"]
        assert 0 <= lower <= metrics[f"many.{measure}"] <= upper <= 1


def test_the_bootstrap_interval_is_the_textbooks_for_a_share() -> None:
    values = np.repeat([[1.0], [0.0]], [300, 100], axis=0)
    (found,) = evaluate.bootstrap(values, seed=0)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert found.estimate == 0.75
    assert (found.lower, found.upper) == pytest.approx((0.75 - half, 0.75 + half), abs=0.008)
    assert evaluate.bootstrap(values, seed=0) == [found]


def scored_before(root: Path, text: str, right: bool) -> str:
    """Scores of an earlier Solver on other questions and on those of `text`."""
    before = task(root, {"sums": text}, prefix=str(root / "before"))
    answer = "\\boxed{2}" if right else "no box"
    evaluate.run(before, store(root), Scripted(lambda _, place: answer))
    return before.prefix


def test_a_solver_is_compared_with_the_one_before_on_the_same_questions(tmp_path: Path) -> None:
    ask = "".join(f'{{"question": "{i}", "answer": "2"}}\n' for i in range(40))
    other = '{"question": "new", "answer": "2"}\n' * 60
    previous = scored_before(tmp_path, ask, right=False)
    # Right in two of four samples of the old questions, in all of the new ones.
    sampler = Scripted(lambda q, place: "\\boxed{2}" if q == "new" or place < 3 else "")
    opened = store(tmp_path)
    asked = task(tmp_path, {"sums": ask + other}, previous=previous)
    metrics = evaluate.run(asked, opened, sampler).metrics
    assert metrics["sums.mean"] == pytest.approx((40 * 0.5 + 60) / 100)
    assert metrics["sums.gain"] == 0.5
    assert 0.35 < metrics["sums.gainLower"] < 0.5 < metrics["sums.gainUpper"] < 0.6
    manifest = opened.manifest(asked.prefix)
    assert manifest is not None
    assert previous in [ref.uri for ref in manifest.inputs]


def test_a_question_that_a_dataset_repeats_is_compared_place_by_place(tmp_path: Path) -> None:
    twice = '{"question": "1", "answer": "2"}\n' * 2
    previous = scored_before(tmp_path, twice, right=True)
    # Five answers to each: the first time all are right, then none.
    sampler = Scripted(lambda _, place: "\\boxed{2}" if place in (0, 2, 3, 4, 5) else "")
    asked = task(tmp_path, {"sums": twice}, previous=previous)
    assert evaluate.run(asked, store(tmp_path), sampler).metrics["sums.gain"] == -0.5


@pytest.mark.parametrize("previous", ["nothing", "broken", "elsewhere"])
def test_without_scores_to_compare_with_there_is_no_gain(tmp_path: Path, previous: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    if previous == "elsewhere":
        previous = "before"
        scored_before(tmp_path, '{"question": "old", "answer": "2"}\n', right=True)
    asked = task(tmp_path, {"sums": GOOD}, previous=str(tmp_path / previous))
    metrics = evaluate.run(asked, store(tmp_path), Scripted(lambda _, place: "")).metrics
    assert metrics["sums.mean"] == 0.0
    assert not [name for name in metrics if "gain" in name]


def test_a_longer_answer_or_another_prompt_is_no_gain(tmp_path: Path) -> None:
    lines = "".join(f'{{"question": "{i}", "answer": "2"}}\n' for i in range(40))
    previous = scored_before(tmp_path, lines, right=False)
    asked = task(tmp_path, {"sums": lines}, samples=6, previous=previous)
    longer = asked.evaluation.model_copy(update={"sampling": Sampling(max_tokens=16)})
    other = Prompts(solver=Prompt(system="Think twice.", user="{question}"))

    def gain(name: str, **changes: Any) -> float | None:
        changed = asked.model_copy(update={"prefix": str(tmp_path / name), **changes})
        sampler = Scripted(lambda _, place: "\\boxed{2}")
        return evaluate.run(changed, store(tmp_path), sampler).metrics.get("sums.gain")

    # Six samples in place of four: shares of them are compared all the same.
    assert gain("same") == 1.0
    assert gain("longer", evaluation=longer) is None
    assert gain("other", prompts=other) is None
    opened = store(tmp_path)
    manifests = [opened.manifest(str(tmp_path / name)) for name in ("same", "longer", "other")]
    settings = [manifest.metrics["settings"] for manifest in manifests if manifest is not None]
    before = opened.manifest(previous)
    assert before is not None and before.metrics["settings"] == settings[0]
    assert len(set(settings)) == 3
    # From then on the new settings are compared.
    assert gain("next", evaluation=longer, previous=str(tmp_path / "longer")) == 0.0


def test_scores_that_do_not_say_how_they_were_made_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_settings(**fields: Any) -> ScoredQuestion:
        return ScoredQuestion(**{**fields, "settings": None})

    with monkeypatch.context() as older:
        older.setattr(evaluate, "ScoredQuestion", without_settings)
        previous = scored_before(tmp_path, GOOD, right=True)
    assert "settings" not in (Path(previous) / "scores.jsonl").read_text()
    asked = task(tmp_path, {"sums": GOOD}, previous=previous)
    metrics = evaluate.run(asked, store(tmp_path), Scripted(lambda _, place: "")).metrics
    assert "sums.gain" not in metrics
    assert "evaluation.sampling" in caplog.text


def test_a_paired_interval_holds_the_truth_where_solvers_are_alike() -> None:
    random = np.random.default_rng(0)
    for questions, samples in ((20, 8), (100, 1), (200, 4)):
        missed = 0
        for _ in range(1000):
            skill = random.beta(0.5, 0.5, size=questions)
            before, after = random.binomial(samples, skill, (2, questions)) / samples
            found = evaluate.paired((after - before).tolist())
            missed += not found.lower <= 0 <= found.upper
        assert missed < 70


@pytest.mark.parametrize(("changed", "certain"), [(1, False), (4, False), (6, True)])
def test_a_few_changes_among_many_questions_are_not_certain(changed: int, certain: bool) -> None:
    found = evaluate.paired([1.0] * changed + [0.0] * (400 - changed))
    assert found.estimate == changed / 400
    assert (found.lower > 0) is certain


def test_a_handful_of_questions_proves_nothing() -> None:
    assert evaluate.paired([0.5] * 3).lower < 0
    assert evaluate.paired([1.0]).lower < 0


def test_a_model_that_never_boxes_scores_zero(tmp_path: Path) -> None:
    sampler = Scripted(lambda _, place: "It is two.")
    metrics = evaluate.run(task(tmp_path, {"sums": GOOD}), store(tmp_path), sampler).metrics
    assert metrics["sums.greedy"] == metrics["sums.mean"] == metrics["sums.majority"] == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "not json\n", r"sums: sums\.jsonl, line 3"),
        (GOOD + '{"question": "1"}\n', r"line 3: answer: required, but missing"),
        ('{"question": "1", "answer": 2}\n', r"line 1: answer"),
        ('{"question": "", "answer": "2"}\n', r"line 1: question"),
        (GOOD + '{"question": "1", "answer": "2", "source": "x"}\n', r"line 3: source: unknown"),
        (b'{"question": "\xff", "answer": "2"}\n', r"line 1"),
        ("", r"sums: sums\.jsonl has no questions; write one JSON object"),
        ("\n\n", r"has no questions"),
    ],
)
def test_a_bad_dataset_names_the_file_and_the_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    sampler = Scripted(lambda _, place: "")
    with pytest.raises(BadData, match=message) as error:
        evaluate.run(task(tmp_path, {"good": GOOD, "sums": text}), store(tmp_path), sampler)
    assert "\n" not in str(error.value)
    assert sampler.asked == []


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    asked = task(tmp_path, {"sums": GOOD})
    (tmp_path / "sums.jsonl").unlink()
    with pytest.raises(BadConfiguration, match=r"sums\.jsonl"):
        evaluate.run(asked, store(tmp_path), Scripted(lambda _, place: ""))


def test_the_gains_of_ten_datasets_outlive_the_bounds_of_their_scores(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"benchmark-{i}": GOOD for i in range(10)}
    opened = store(tmp_path)
    before = task(tmp_path, files, prefix=str(tmp_path / "before"))
    evaluate.run(before, opened, Scripted(lambda _, place: ""))
    asked = task(tmp_path, files, previous=before.prefix)
    result = evaluate.run(asked, opened, Scripted(lambda _, place: "\\boxed{2}"))
    assert len(result.to_json().encode()) <= MAX_RESULT_BYTES
    ends = [name.partition(".")[2] for name in result.metrics if name.startswith("benchmark-7.")]
    assert {"mean", "gain", "gainLower", "gainUpper"} <= set(ends)
    assert "meanLower" not in ends


def test_the_results_of_many_datasets_fit_a_termination_message(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"{i:02d}-{'n' * 60}": GOOD for i in range(32)}
    sampler = Scripted(lambda _, place: f"\\boxed{{{place % 3}}}")
    result = evaluate.run(task(tmp_path, files), store(tmp_path), sampler)
    assert len(result.to_json().encode()) <= MAX_RESULT_BYTES
    assert len([name for name in result.metrics if name.endswith(".mean")]) == 32
    assert len(rows(result, "scores", ScoredQuestion)) == 64


def test_a_real_model_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_models.save(tmp_path / "solver")
    result = evaluate.run(task(tmp_path, {"sums": GOOD}), store(tmp_path))
    assert result.metrics["answers"] == 10
    assert result.metrics["sums.mean"] == 0.0
    assert '"done": 10, "total": 10, "unit": "answers"' in capsys.readouterr().out


def test_the_manifest_names_checkpoint_and_datasets(tmp_path: Path) -> None:
    opened = store(tmp_path)
    asked = task(tmp_path, {"sums": GOOD})
    evaluate.run(asked, opened, Scripted(lambda _, place: ""))
    manifest = opened.manifest(asked.prefix)
    assert manifest is not None
    assert [ref.uri for ref in manifest.inputs] == [str(tmp_path / "sums.jsonl")]
