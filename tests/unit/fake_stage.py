"""A stand-in for `python -m rzero_stages` that obeys its process protocol in milliseconds.

`RZERO_FAKE` names a folder. `<stage>.script` in it holds what the next starts of that stage do, one
word a line, taken from the top: a number (exit code), `hang`, `slow`, `kill`, `silent`. Every start
is written down in `starts`, and in `keyed` where it got the oracle's key. `audit.json` is what
every BuildCurriculum finds out about its labels.
"""

import json
import os
import signal
import sys
import time

OUTPUTS = {
    "trainChallenger": "checkpoint",
    "generateQuestions": "questions",
    "labelQuestions": "votes",
    "buildCurriculum": "curriculum",
    "trainSolver": "checkpoint",
    "evaluate": "scores",
}


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    task = json.loads(os.environ["RZERO_TASK"])
    shard = os.environ.get("JOB_COMPLETION_INDEX")
    folder = os.environ["RZERO_FAKE"]
    words = (task["iteration"], task["stage"], task["round"], task["attempt"], shard, os.getpid())
    with open(f"{folder}/starts", "a") as starts:
        starts.write(" ".join(map(str, words)) + "\n")
    if "RZERO_ORACLE_API_KEY" in os.environ:
        with open(f"{folder}/keyed", "a") as keyed:
            keyed.write(f"{task['stage']}\n")
    line = {"event": "progress", "done": 1, "total": 2, "unit": "steps", "metrics": {"reward": 0.5}}
    print(json.dumps(line), flush=True)
    print("a word on standard error", file=sys.stderr, flush=True)
    match _next_word(f"{folder}/{task['stage']}.script"):
        case "hang":
            time.sleep(600)
        case "slow":
            time.sleep(0.5)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "silent":
            return 0
        case "" | "ok":
            pass
        case code:
            _leave(f"it went wrong with {code}\n")
            return int(code)
    prefix = task["prefix"] if shard is None else f"{task['prefix']}/shard-{int(shard):04d}"
    result = {
        "runUid": task["run"]["uid"],
        "iteration": task["iteration"],
        "stage": task["stage"],
        "round": task["round"],
        "outputs": {OUTPUTS[task["stage"]]: prefix},
        "metrics": {"rows": 2.0},
        "manifestDigest": f"digest of {prefix}",
        "seconds": 1.5,
    }
    audit = f"{folder}/audit.json"
    if task["stage"] == "buildCurriculum" and os.path.exists(audit):
        with open(audit) as file:
            result["labelAudit"] = json.load(file)
    _publish(prefix, task)
    _leave(json.dumps(result if shard is None else {**result, "shard": int(shard)}))
    return 0


def _publish(prefix: str, task: dict[str, object]) -> None:
    """The proof that the work is done: a manifest without files."""
    words = {key: task[key] for key in ("run", "iteration", "stage", "seed")}
    times = {"seconds": 1.5, "startedAt": "2026-01-01", "finishedAt": "2026-01-01"}
    os.makedirs(prefix, exist_ok=True)
    with open(f"{prefix}/manifest.json", "w") as file:
        json.dump(words | times, file)


def _leave(text: str) -> None:
    with open(os.environ["RZERO_RESULT_PATH"], "w") as file:
        file.write(text)


def _next_word(script: str) -> str:
    if not os.path.exists(script):
        return ""
    with open(script) as file:
        word, _, rest = file.read().partition("\n")
    with open(script, "w") as file:
        file.write(rest)
    return word.strip()


if __name__ == "__main__":
    sys.exit(main())
