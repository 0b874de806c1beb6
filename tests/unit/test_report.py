"""`rzero report`: what its reader sees of whole, unfinished, damaged and hostile runs."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from fake_run import FakeRun, voted
from report_page import Page, page_of

from rzero_core.records import LabeledQuestion, Question, StepRow
from rzero_core.run import Stage
from rzero_core.status import (
    Phase,
    StageState,
)
from rzero_core.task import BadConfiguration, shard_prefix
from rzero_stages import report, report_words


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(FakeRun(tmp_path_factory.mktemp("whole")).whole())


def test_the_page_says_which_run_it_is_and_what_came_of_it(whole: Page) -> None:
    for words in ("tiny", "Succeeded", "examples/tiny/model", "3 of 3 done", "2 Mar 2026, 09:14"):
        assert words in whole.text
    assert re.search(r"The Solver's mean@8 on heldout rose from [\d.]+ % to [\d.]+ %", whole.text)
    assert "Share of right labels: " in whole.text


def test_the_page_has_every_table_plot_and_sample(whole: Page) -> None:
    for title in (
        "Solver scores on heldout",
        "True pseudo-label accuracy",
        "Challenger reward and mean agreement",
        "Solver reward",
        "What became of the questions",
        "Time by stage",
        "Agreement, iteration 1",
        "Agreement, iteration 3",
        "Ten sample questions and their votes",
    ):
        assert title in whole.text
    assert whole.tags["svg"] == 9
    assert whole.tags["article"] == 10
    assert whole.tags["tr"] == 2 + 4  # two of headings, the base, three iterations


def test_the_page_needs_no_network_and_runs_no_script(whole: Page) -> None:
    assert whole.tags["script"] == whole.tags["img"] == whole.tags["iframe"] == 0
    assert "http:" not in whole.html and "https:" not in whole.html and "@import" not in whole.html
    assert all(uri.startswith("#") for uri in re.findall(r"url\(([^)]*)\)", whole.html))
    links = [value for name, value in whole.attributes if name in ("href", "src", "xlink:href")]
    assert all(link.startswith("#") or link == "data:," for link in links)


def test_ids_differ_and_every_reference_has_its_target(whole: Page) -> None:
    ids = Counter(value for name, value in whole.attributes if name == "id")
    assert max(ids.values()) == 1
    used = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', whole.html)
    assert {a or b for a, b in used} <= set(ids)


def test_plots_take_their_colours_from_the_page_and_describe_themselves(whole: Page) -> None:
    assert not re.search(r"#fe[0-9a-f]{2}dc", whole.html)
    defined = set(re.findall(r"(--[a-z-]+):", whole.html))
    assert set(re.findall(r"var\((--[a-z-]+)\)", whole.html)) <= defined
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', whole.html)
    assert len(labels) == 9 and any("iteration 3" in label for label in labels)


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, iterations=1).whole()
    assert page_of(fake).html == page_of(fake).html


def test_label_accuracy_counts_the_right_labels_of_the_curriculum(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, iterations=1)
    rows = [("1+1", "2"), ("2+2", "5"), ("10/4", "2.5"), ("Name a colour.", "red")]
    publish_curriculum(fake, [(text, label, 0.5) for text, label in rows])
    text = page_of(fake).text
    assert "66.7 % in iteration 1 (computed for 3 of 4 labels)" in text
    assert "66.7 % 20.8\u201393.9 3 computed" in text
    assert "Computed for 3 of 4 labels in iteration 1" in text
    assert "iteration 1 66.7 %" in page_of(fake).html.replace("\u00a0", " ")


def test_questions_without_computable_answers_make_no_claim_about_labels(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, iterations=1)
    publish_curriculum(fake, [("Name a colour.", "red", 0.5)])
    text = page_of(fake).text
    assert "no right answer can be computed here" in text
    assert "Share of right labels:" not in text and "pseudo-label accuracy, iteration" not in text


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path)
    fake.phase = Phase.PENDING
    page = page_of(fake)
    assert "No stage has begun yet." in page.text
    assert "Nothing has been evaluated yet." in page.text
    assert page.tags["svg"] == 0


def test_an_unfinished_run_shows_what_there_is_so_far(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path)
    fake.phase = Phase.RUNNING
    fake.evaluate(0, 0.6)
    fake.train(1, Stage.TRAIN_CHALLENGER, 12, 0.3, 0.5)
    fake.pool(1, right=0.9)
    prefix = fake.prefix(1, Stage.TRAIN_SOLVER)
    rows = [StepRow(step=step, metrics={"reward": 0.5}) for step in range(1, 6)]
    files = {"steps.jsonl": rows}
    fake.publish(f"{prefix}/step-0005", 1, Stage.TRAIN_SOLVER, None, files, step=5)
    fake.note(1, Stage.TRAIN_SOLVER, prefix, {}, 0, state=StageState.RUNNING)
    page = page_of(fake)
    assert "Running: iteration 1 of 3" in page.text and "0 of 3 done" in page.text
    assert "Solver reward by training step: from 0.50 to 0.50 in iteration 1" in page.html
    assert "cannot be read" not in page.text


def test_a_failed_stage_is_named_with_its_error(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path)
    fake.phase = Phase.FAILED
    fake.note(1, Stage.TRAIN_CHALLENGER, "", {}, 5, state=StageState.FAILED)
    entry = fake.stages[1][0]
    fake.stages[1][0] = entry.model_copy(update={"message": "the disk is full <b>"})
    page = page_of(fake)
    assert "Train Challenger, iteration 1: the disk is full <b>" in page.text
    assert "Failed" in page.text


def test_deleted_artifacts_are_named_in_place_and_the_rest_stays(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, iterations=2).whole()
    fake.store.delete(shard_prefix(fake.prefix(1, Stage.LABEL_QUESTIONS), 1))
    fake.store.delete(fake.prefix(2, Stage.TRAIN_SOLVER))
    fake.store.delete(fake.prefix(2, Stage.BUILD_CURRICULUM))
    text = page_of(fake).text
    assert re.search(
        r"Iteration 1: votes.jsonl cannot be read: \S*shard-0001 is not published", text
    )
    assert "Iteration 2: steps.jsonl cannot be read" in text
    assert "Iteration 2: curriculum.jsonl cannot be read" in text
    assert "rose from" in text


def test_a_run_whose_artifacts_are_all_gone_still_has_its_numbers(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, iterations=1)
    metrics = {"heldout.mean": 0.7, "heldout.meanLower": 0.6, "heldout.meanUpper": 0.8}
    metrics |= {"heldout.greedy": 0.9, "heldout.majority": 0.85}
    ends = {"uncertaintyFirst": 0.31, "uncertaintyLast": 0.52}
    counts = {"kept": 40, "tooEasy": 5, "agreement05": 40, "agreement10": 5}
    fake.note(1, Stage.TRAIN_CHALLENGER, fake.prefix(1, Stage.TRAIN_CHALLENGER), ends, 9)
    fake.note(1, Stage.BUILD_CURRICULUM, fake.prefix(1, Stage.BUILD_CURRICULUM), counts, 9)
    fake.note(1, Stage.EVALUATE, fake.prefix(1, Stage.EVALUATE), metrics, 9)
    text = page_of(fake).text
    assert "0.31 → 0.52" in text
    assert "70.0 60.0\u201380.0 90.0 85.0" in text
    assert "40 of 45 questions in the band" in text
    assert "No votes can be shown" in text or "none are in storage" in text


def test_a_damaged_artifact_is_named_and_not_shown(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, iterations=1).whole()
    file = Path(fake.prefix(1, Stage.BUILD_CURRICULUM)) / "curriculum.jsonl"
    file.write_text(file.read_text().replace("0.", "1.", 1))
    assert "Iteration 1: curriculum.jsonl cannot be read" in page_of(fake).text


HOSTILE = [
    "</bdi></svg><script>alert(1)</script><style>*{display:none}</style>",
    "{{ 7 * 7 }} {% raw %} & &lt; \" ' `",
    "\u202e\u2066gnorw\u2069\u202c \u200b\ufeff \x00\x07\x1b[31m\x7f\x85 \U000e0041",
    "x" * 100_000,
    "a" + "\u0301" * 500 + "\n" * 400,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_of_a_model_can_break_the_page(tmp_path: Path, text: str) -> None:
    fake = FakeRun(tmp_path, iterations=1)
    asked = voted("Question: " + text, [text, text, "2", None])
    other = voted("3+4", ["7", "7", text, text])
    hostile = asked.model_copy(update={"challenger_answer": text})
    fake.finish_shards(1, [[hostile], [other]])
    page = page_of(fake)
    assert page.tags["script"] == 0 and page.tags["style"] == 1 and page.tags["article"] == 2
    assert len(page.html) < 100_000
    assert not re.search(
        r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", page.html
    )
    assert "\u0301\u0301\u0301" not in page.html


def test_what_is_invisible_is_spelled_out_and_what_scripts_need_stays() -> None:
    assert report_words.plain("a\u202eb\x00") == "a⟨U+202E⟩b⟨U+0000⟩"
    assert report_words.plain("नमस्ते é ∫ 👩\u200d🔬\n\t") == "नमस्ते é ∫ 👩\u200d🔬\n\t"
    assert report_words.plain("y" * 2000, 10) == "y" * 10 + " … (2,000 characters)"


def test_samples_are_spread_over_outcomes_and_show_every_vote(whole: Page) -> None:
    outcomes = re.findall(r'class="outcome"><i [^>]*></i>([^<]+)<', whole.html)
    assert {"kept", "too easy", "too hard", "tie"} <= set(outcomes)
    for article in re.findall(r'<article class="card sample">.*?</article>', whole.html, re.DOTALL):
        assert sum(map(int, re.findall(r"<b>(\d+)</b></li>", article))) == 10


def test_questions_in_the_band_are_not_called_kept_before_the_curriculum_is(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, iterations=1)
    fake.finish_shards(1, [[voted("3+4", ["7", "7", "8", "9"])], []])
    assert "in the band iteration 1" in page_of(fake).text


def test_top_up_rounds_count_with_the_first(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, iterations=1)
    fake.pool(1, right=0.9)
    first = fake.stages[1][:]
    for place, entry in enumerate(first):
        again = entry.model_copy(update={"round": 2, "metrics": {**entry.metrics}})
        if entry.stage is Stage.GENERATE_QUESTIONS:
            again = again.model_copy(update={"metrics": {"malformed": "3"}})
            malformed = 3 + int(entry.metrics["malformed"])
        if entry.stage is Stage.BUILD_CURRICULUM:
            short = {"metrics": {"kept": "10", "tooEasy": "150", "short": "1"}}
            fake.stages[1][place] = entry.model_copy(update=short)
            again = again.model_copy(update={"metrics": {"kept": "200", "tooEasy": "120"}})
        fake.stages[1].append(again)
    text = page_of(fake).text
    assert f"{320 + malformed} 320 valid 0 200" in text


def test_many_iterations_and_datasets_fit_on_a_page(tmp_path: Path) -> None:
    fake = FakeRun(tmp_path, iterations=40)
    for iteration in range(1, 41):
        metrics = {f"agreement{tenth:02d}": 5 for tenth in range(11)} | {"kept": 30, "tooEasy": 25}
        fake.note(iteration, Stage.BUILD_CURRICULUM, "", metrics, 60)
    page = page_of(fake)
    assert "Agreement, iteration 1 " in page.text and "Agreement, iteration 40 " in page.text
    assert page.text.count("Agreement, iteration") == 12
    assert page.tags["tr"] == 2 + 40


def test_the_command_writes_the_file_and_makes_its_folder(tmp_path: Path) -> None:
    status, manifest = FakeRun(tmp_path, iterations=1).write()
    output = tmp_path / "new" / "report.html"
    done = command(status, manifest, output)
    assert done.returncode == 0 and output.read_text("utf-8").startswith("<!doctype html>")


def test_a_file_that_cannot_be_used_is_named_in_one_line(tmp_path: Path) -> None:
    status, manifest = FakeRun(tmp_path, iterations=1).write()
    broken = tmp_path / "broken.json"
    broken.write_text('{"phase": "Sleeping"}')
    done = command(broken, manifest, tmp_path / "report.html")
    assert done.returncode == BadConfiguration.exit_code
    assert done.stderr.count("\n") == 1 and "broken.json" in done.stderr and "phase" in done.stderr
    with pytest.raises(BadConfiguration, match="absent"):
        report.write(status, tmp_path / "absent.yaml", tmp_path / "report.html")
    (tmp_path / "file").touch()
    with pytest.raises(BadConfiguration, match="cannot write the report"):
        report.write(status, manifest, tmp_path / "file" / "report.html")


def command(*arguments: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "rzero_stages.report", *map(str, arguments)]
    return subprocess.run(line, check=False, capture_output=True, text=True)


def publish_curriculum(fake: FakeRun, rows: list[tuple[str, str, float]]) -> None:
    """A curriculum of (question, label, agreement)."""
    curriculum = [
        LabeledQuestion(id=Question.of(text).id, text=text, label=label, agreement=agreement)
        for text, label, agreement in rows
    ]
    files = {"curriculum.jsonl": curriculum}
    fake.finish(1, Stage.BUILD_CURRICULUM, files, {"kept": len(curriculum)}, seconds=1)
