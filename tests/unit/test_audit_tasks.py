"""What the plan tells the stages about auditing."""

from plan_world import World, make_spec

from rzero_core.run import Stage
from rzero_core.task import BuildCurriculumTask, LabelQuestionsTask
from rzero_operator.tasks import Step

PROBES = {"uri": "s3://bucket/probes.jsonl", "count": 50}
SPEC = make_spec(
    iterations=2,
    questions={"count": 128, "shards": 2, "topUps": 1},
    labelAccuracy={"auditor": {"type": "Programmatic", "probes": PROBES}, "sampleSize": 77},
)


def test_probes_are_voted_on_once_an_iteration_and_not_in_a_top_up() -> None:
    world = World(SPEC)
    world.walk(until=Step(1, Stage.BUILD_CURRICULUM))
    world.succeed(short=1.0)
    world.walk()
    labels = [a.task for a in world.started if isinstance(a.task, LabelQuestionsTask)]
    assert [(task.iteration, task.round) for task in labels] == [(1, 1), (1, 2), (2, 1)]
    probes = SPEC.label_accuracy.auditor.probes
    assert [task.probes for task in labels] == [probes, None, probes]


def test_a_curriculum_is_told_of_the_auditor_and_of_the_iteration_before() -> None:
    world = World(SPEC)
    world.walk()
    first, second = [a.task for a in world.started if isinstance(a.task, BuildCurriculumTask)]
    assert first.label_accuracy == second.label_accuracy == SPEC.label_accuracy
    assert (first.previous, second.previous) == (None, first.prefix)
