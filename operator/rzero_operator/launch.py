"""Runs one attempt as processes of this machine: its shards, or the ranks of a training stage."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from rzero_core.run import Stage
from rzero_core.task import (
    CACHE_VARIABLE,
    NEVER_RETRIED,
    ORACLE_KEY_VARIABLE,
    RESULT_VARIABLE,
    SHARD_VARIABLE,
    TASK_VARIABLE,
    StageResult,
)
from rzero_operator.decision import Attempt, AttemptState, StartAttempt
from rzero_operator.folder import RunFolder
from rzero_operator.process import (
    Process,
    Progress,
    StageProcess,
    exit_code,
    explain_end,
    parse_progress,
    rendezvous,
    visible_gpus,
)

KILL_GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL for an attempt that passed its deadline."""
_TRAINING = (Stage.TRAIN_CHALLENGER, Stage.TRAIN_SOLVER)

Launcher = Callable[[dict[str, str], IO[bytes]], StageProcess]
"""Starts a stage with an environment and a log."""


@dataclass
class LiveAttempt:
    """One attempt: as many processes at a time as `parallelism` and devices allow."""

    start: StartAttempt
    folder: RunFolder
    launcher: Launcher
    progress: dict[int, Progress] = field(default_factory=dict)
    stopping: bool = False
    _running: list[Process] = field(default_factory=list)
    _ended: list[Process] = field(default_factory=list)
    _killed_by_deadline: bool = False

    def __post_init__(self) -> None:
        self.path = attempt_path(self.folder, self.start)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "task.json").write_text(self.start.task.to_json())
        (self.folder.path / "logs").mkdir(exist_ok=True)
        self._cache.mkdir(parents=True, exist_ok=True)
        self._pending = list(range(self.start.shards)) if self.start.shards else [None]
        self._began = time.monotonic()
        self._gpus = visible_gpus()
        self._fill()

    def poll(self) -> None:
        """Read progress, take in ended processes, start pending shards, keep the deadline."""
        for process in list(self._running):
            self._read(process)
            if process.popen.poll() is not None:
                self._read(process)
                self._close(process)
        if any(process.popen.returncode for process in self._ended):
            self._pending = []
            # Told to stop, ranks end one after another: the first one last, after its checkpoint.
            if not self.stopping:
                self._kill_ranks_of_the_failed()
        limit = self.start.settings.active_deadline_seconds
        late = time.monotonic() - self._began - limit if limit is not None else -1.0
        if late > 0:
            self._killed_by_deadline = True
            self.stop()
            if late > KILL_GRACE:
                self.kill()
        self._fill()

    def stop(self) -> None:
        """Ask all processes to stop, once: a training stage writes a checkpoint first."""
        if not self.stopping:
            self.stopping = True
            self._pending = []
            for process in self._running:
                process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all processes at once."""
        self.stopping = True
        self._pending = []
        for process in self._running:
            process.signal(signal.SIGKILL)

    def observed(self) -> Attempt:
        """The attempt as the plan sees it."""
        start, number = self.start, self.start.task.attempt
        if self._running or self._pending:
            # To the plan a passed deadline is a failure to come, not a stop that it asked for.
            asked = self.stopping and not self._killed_by_deadline
            state = AttemptState.STOPPING if asked else AttemptState.RUNNING
            return Attempt(start.step, number, state, start.shards)
        failed = [process for process in self._ended if process.popen.returncode]
        # A failure that no retry can mend says more than one that a retry may.
        failed.sort(key=lambda process: process.popen.returncode not in NEVER_RETRIED)
        if not failed and len(self._ended) >= (start.shards or 1):
            results = read_results(self.path)
            return Attempt(start.step, number, AttemptState.SUCCEEDED, start.shards, results)
        code = exit_code(failed[0]) if failed else None
        if self._killed_by_deadline:
            limit = start.settings.active_deadline_seconds
            reason, message = (
                "DeadlineExceeded",
                f"ran longer than {limit} s (activeDeadlineSeconds)",
            )
        else:
            reason, message = "", explain_end(failed[0]) if failed else "stopped"
        return Attempt(
            start.step,
            number,
            AttemptState.FAILED,
            start.shards,
            exit_code=code,
            reason=reason,
            message=message,
        )

    def overall(self) -> Progress | None:
        """Progress over all shards, None before the first report."""
        if not self.progress:
            return None
        latest = list(self.progress.values())
        total = max(item.total for item in latest) * (self.start.shards or 1)
        return Progress(
            sum(item.done for item in latest), total, latest[-1].unit, latest[-1].metrics
        )

    def _fill(self) -> None:
        settings = self.start.settings
        while self._pending and len(self._running) < settings.parallelism:
            shard = self._pending.pop(0)
            devices = self._free_devices()
            ranks = max(1, len(devices)) if self.start.step.stage in _TRAINING else 1
            meeting = rendezvous(ranks) if ranks > 1 else {}
            for rank in range(ranks):
                self._running.append(self._launch(shard, rank, devices, meeting))

    @property
    def _cache(self) -> Path:
        """Where stages keep downloads: shared by the attempts of a run unless the user chose."""
        return Path(os.environ.get(CACHE_VARIABLE) or self.folder.path / "cache")

    def _free_devices(self) -> tuple[str, ...]:
        """The GPUs of the next process: `gpus` of those that no other process has."""
        wanted = self.start.settings.gpus
        if wanted is None:
            wanted = len(self._gpus) // self.start.settings.parallelism
            wanted = max(wanted, min(1, len(self._gpus)))
        taken = {device for process in self._running for device in process.devices}
        free = [device for device in self._gpus if device not in taken]
        # Fewer GPUs than asked for: shards share what there is.
        return tuple((free if len(free) >= wanted else self._gpus)[:wanted])

    def _launch(
        self, shard: int | None, rank: int, devices: tuple[str, ...], meeting: dict[str, str]
    ) -> Process:
        suffix = (f"-s{shard:04d}" if shard is not None else "") + (f"-r{rank}" if rank else "")
        # Only the first rank's result counts; the others write beside it.
        result_path = self.path / f"{'rank' if rank else 'result'}{suffix}.json"
        log_path = self.folder.path / "logs" / f"{self.path.name}{suffix}.log"
        environment = {
            **os.environ,
            TASK_VARIABLE: self.start.task.to_json(),
            RESULT_VARIABLE: str(result_path),
            CACHE_VARIABLE: str(self._cache),
            "PYTHONUNBUFFERED": "1",
        }
        environment.pop(SHARD_VARIABLE, None)
        if self.start.step.stage is not Stage.BUILD_CURRICULUM:
            environment.pop(ORACLE_KEY_VARIABLE, None)
        if shard is not None:
            environment[SHARD_VARIABLE] = str(shard)
        if self._gpus or self.start.settings.gpus == 0:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        if meeting:
            environment |= meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        log = log_path.open("ab")
        popen = self.launcher(environment, log)
        return Process(shard, rank, popen, log, log_path, result_path, devices)

    def _read(self, process: Process) -> None:
        for line in process.read():
            progress = parse_progress(line)
            if progress is None:
                process.log.write(line + b"\n")
                process.log.flush()
            elif process.rank == 0:
                self.progress[process.shard or 0] = progress

    def _close(self, process: Process) -> None:
        self._running.remove(process)
        self._ended.append(process)
        if process.popen.stdout is not None:
            process.popen.stdout.close()
        process.log.close()
        process.end_helpers()

    def _kill_ranks_of_the_failed(self) -> None:
        """Ranks of one training wait for each other for ever, so they end together."""
        if self.start.shards is None:
            for process in self._running:
                process.signal(signal.SIGKILL)


def attempt_path(folder: RunFolder, start: StartAttempt) -> Path:
    """Where the task and the results of an attempt lie."""
    iteration, stage, round = start.step
    top_up = f"-r{round}" if round > 1 else ""
    return folder.path / "attempts" / f"i{iteration:04d}-{stage}{top_up}-a{start.task.attempt}"


def read_results(path: Path) -> tuple[StageResult, ...]:
    """The results that the processes of an attempt left; what is no result is passed over."""
    results = []
    for file in sorted(path.glob("result*.json")):
        try:
            results.append(StageResult.model_validate_json(file.read_text()))
        except (ValidationError, UnicodeDecodeError):
            continue  # A failed stage leaves its error there.
    return tuple(results)
