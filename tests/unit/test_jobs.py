"""The objects that are created for an attempt."""

from job_makers import RUN, UID, environment, job, rendered

from rzero_core.run import Stage
from rzero_operator.jobs import LONGEST_NAME, job_name, selector
from rzero_operator.tasks import Step


def test_a_stage_is_one_job_that_the_run_owns() -> None:
    (made,) = rendered(Stage.EVALUATE)
    assert made["metadata"] == {
        "name": "demo-i001-eval-a1",
        "namespace": "lab",
        "labels": {
            "app.kubernetes.io/name": "rzero",
            "app.kubernetes.io/instance": "demo",
            "app.kubernetes.io/component": "stage",
            "app.kubernetes.io/part-of": "rzero",
            "app.kubernetes.io/managed-by": "rzero-operator",
            "rzero.dev/run": "demo",
            "rzero.dev/run-uid": UID,
            "rzero.dev/iteration": "1",
            "rzero.dev/stage": "evaluate",
            "rzero.dev/round": "1",
            "rzero.dev/attempt": "1",
        },
        "ownerReferences": [
            {
                "apiVersion": "rzero.dev/v1alpha1",
                "kind": "CoEvolutionRun",
                "name": "demo",
                "uid": UID,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    spec = {key: value for key, value in made["spec"].items() if key != "template"}
    assert spec == {
        "backoffLimit": 0,
        "completionMode": "NonIndexed",
        "completions": 1,
        "parallelism": 1,
        "podReplacementPolicy": "Failed",
        "ttlSecondsAfterFinished": 86400,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "main",
                        "operator": "In",
                        "values": [64, 65, 78],
                    },
                },
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
    }
    assert made["spec"]["template"]["metadata"]["labels"] == made["metadata"]["labels"]
    assert selector(RUN) == f"rzero.dev/run-uid={UID}"


def test_shards_are_an_indexed_job_that_goes_on_past_a_failed_one() -> None:
    settings = {"labelQuestions": {"parallelism": 8, "activeDeadlineSeconds": 600}}
    spec = job(Stage.LABEL_QUESTIONS, stages=settings)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["backoffLimitPerIndex"] == 0
    assert "backoffLimit" not in spec
    assert {rule["action"] for rule in spec["podFailurePolicy"]["rules"]} == {"FailIndex"}
    assert spec["activeDeadlineSeconds"] == 600


def test_the_same_attempt_is_rendered_the_same() -> None:
    assert rendered(Stage.EVALUATE) == rendered(Stage.EVALUATE)


def test_several_nodes_meet_through_a_headless_service() -> None:
    service, made = rendered(Stage.TRAIN_SOLVER, stages={"trainSolver": {"nodes": 2, "gpus": 8}})
    name = f"demo-{UID[:8]}"
    assert service["metadata"]["name"] == name
    assert service["metadata"]["ownerReferences"] == made["metadata"]["ownerReferences"]
    assert service["spec"] == {
        "clusterIP": "None",
        "ports": [{"name": "rendezvous", "port": 29500}],
        "publishNotReadyAddresses": True,
        "selector": {"rzero.dev/run-uid": UID},
    }
    spec = made["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["backoffLimit"] == 0
    assert spec["template"]["spec"]["subdomain"] == name
    variables = environment(spec["template"]["spec"]["containers"][0])
    assert variables["PET_NNODES"] == "2"
    assert variables["PET_MASTER_ADDR"] == f"demo-i001-solv-a1-0.{name}"
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert variables["PET_NODE_RANK"] == {"fieldRef": {"fieldPath": index}}


def test_only_training_takes_several_nodes() -> None:
    (made,) = rendered(Stage.EVALUATE, stages={"evaluate": {"nodes": 4}})
    assert made["spec"]["completions"] == 1


def test_a_queue_is_a_label_of_the_job() -> None:
    template = {"metadata": {"labels": {"kueue.x-k8s.io/priority-class": "high", "team": "a"}}}
    made = job(Stage.EVALUATE, queueName="research", stages={"evaluate": {"podTemplate": template}})
    labels = made["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "research"
    assert labels["kueue.x-k8s.io/priority-class"] == "high"
    assert "team" not in labels
    assert "suspend" not in made["spec"]


def test_names_say_what_an_attempt_is_of() -> None:
    assert job_name("demo", Step(1, Stage.TRAIN_CHALLENGER), 1) == "demo-i001-chal-a1"
    assert job_name("demo", Step(12, Stage.LABEL_QUESTIONS, 3), 2) == "demo-i012-label-r3-a2"


def test_the_longest_names_fit_a_host_name_and_stay_apart() -> None:
    long = "a" * 40
    assert job_name(long, Step(999, Stage.LABEL_QUESTIONS, 21), 9) == f"{long}-i999-label-r21-a9"
    names = {
        job_name(name, Step(999, stage, 21), attempt)
        for name in (long, "a" * 39 + "b")
        for stage in Stage
        for attempt in (9, 10, 999, 10_100, 123_456)
    }
    assert len(names) == 2 * len(Stage) * 5
    assert max(map(len, names)) == LONGEST_NAME == 63 - len("-9999")
