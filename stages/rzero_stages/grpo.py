"""Trains a model by GRPO from rewards: the TRL part that TrainChallenger and TrainSolver share.

TRL's `GRPOTrainer` samples, scores and learns. What stands here is which of its settings our
`Training` means, what the model starts from, and what becomes of it. `steps` follows the training.
"""

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl.import_utils as trl_imports
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

if not torch.cuda.is_available():
    # TRL imports vLLM wherever it is installed, which takes as long as all the rest.
    trl_imports.is_vllm_available = lambda min_version=None: False

from trl.models.utils import unwrap_model_for_generation
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rzero_core import answers
from rzero_core.prompts import plain
from rzero_core.records import write_jsonl
from rzero_core.run import KlReference, SamplerBackend
from rzero_core.store import ArtifactStore, InputRef
from rzero_core.task import BadConfiguration, StageResult, TryAgain, derive_seed
from rzero_stages import checkpoints, sampling
from rzero_stages.decoding import decode
from rzero_stages.published import full_disk_named, scratch
from rzero_stages.sampler import Messages
from rzero_stages.steps import ROWS, Batch, Diary, Reward, Steps, TrainingTask, ranks, role

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lessons:
    """What there is to learn from."""

    conversations: Sequence[Messages]
    """Prompts, each once."""
    order: Sequence[int]
    """Numbers of the prompts of all steps, end to end."""
    group: int
    """Completions of each prompt, among which rewards are compared."""
    reward: Reward


def train(
    task: TrainingTask, store: ArtifactStore, start: str, lessons: Lessons, inputs: Sequence[str]
) -> StageResult:
    """Train the model at `start`, publish the checkpoint under the task's prefix, and report.

    Goes on from the newest whole step checkpoint, if there is one. `inputs` are the URIs of the
    artifacts that the work is made from. Raises `TryAgain` after SIGTERM, when the step under way
    is done and published, and `BadConfiguration` when the loss is no number.
    """
    world = ranks()
    diary = Diary(task, Batch.cut(task.training, world.num_processes), lessons.reward)
    diary.inputs = [
        InputRef(uri=uri, digest=found.digest) for uri in inputs if (found := store.manifest(uri))
    ]
    with (
        scratch() as work,
        full_disk_named(work),
        checkpoints.StopRequest() as stop,
        checkpoints.Publisher(store, task.prefix) as publisher,
    ):
        with world.local_main_process_first():
            model, tokenizer = _start_model(task, store, start)
        trainer = _trainer(diary, model, tokenizer, lessons, work / "steps")
        trainer.add_callback(Steps(diary, publisher, stop))
        trainer.train(resume_from_checkpoint=_newest(store, diary))
        publisher.wait()
        if len(diary.rows) < task.training.steps:
            raise TryAgain(
                f"stopped on request after step {len(diary.rows)}; start it again to go on"
            )
        final = work / "final"
        _save_model(trainer, tokenizer, final, store.model(start))
        if world.is_main_process:
            write_jsonl(final / ROWS, diary.rows)
            store.publish(final, diary.manifest(), task.prefix)
            publisher.discard()
        world.wait_for_everyone()
    published = store.manifest(task.prefix)
    assert published is not None
    return published.result()


def row_order(rows: int, count: int, *seed: int | str) -> list[int]:
    """`count` row numbers below `rows`: one permutation after another, each with its own seed."""
    order: list[int] = []
    for epoch in range(math.ceil(count / rows)):
        shuffled = np.random.default_rng(derive_seed(*seed, "order", epoch)).permutation(rows)
        order += shuffled.tolist()
    return order[:count]


class _Config(GRPOConfig):
    """TRL's settings, on a device whose name torch knows."""

    @property
    def device(self) -> torch.device:
        # Of several processes accelerate says `cpu:0`, to which no optimizer's state can be loaded.
        device: torch.device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


class _Trainer(GRPOTrainer):
    """TRL's trainer with a stopwatch, sampling by our decoder where there is no vLLM."""

    diary: Diary

    def _generate(self, prompts: list[Any]) -> Any:
        started = time.perf_counter()
        generated = super()._generate(prompts)
        self.diary.noted["samplingSeconds"] = time.perf_counter() - started
        return generated

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        if self.use_vllm:
            return super()._generate_single_turn(  # type: ignore[no-untyped-call]
                prompt_ids, *args, **kwargs
            )
        numbers: dict[tuple[int, ...], int] = {}
        which = [numbers.setdefault(tuple(ids), len(numbers)) for ids in prompt_ids]
        settings = self.diary.task.training.sampling
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:
            rows = decode(
                model,
                list(numbers),
                which,
                settings,
                max_tokens=settings.max_tokens,
                end_tokens=set(self.eos_token_ids),
                # From the generator that each step seeds.
                seed=int(torch.randint(2**31, ()).item()),
                on_rows=lambda _: None,
            )
        # TRL wants a token even of a prompt that fills the context.
        return [row.tokens or [self.eos_token_ids[0]] for row in rows], None


def _trainer(diary: Diary, model: Any, tokenizer: Any, lessons: Lessons, output: Path) -> _Trainer:
    if getattr(tokenizer, "chat_template", None):
        prompts: list[Any] = list(lessons.conversations)
    else:
        prompts = [plain(messages) for messages in lessons.conversations]
    rows = Dataset.from_dict({"prompt": prompts, "row": list(range(len(prompts)))})
    lora = diary.task.training.lora
    adapter = None
    if lora is not None:
        adapter = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear")
    trainer = _Trainer(
        model=model,
        processing_class=tokenizer,
        args=_config(diary.task, diary.batch, lessons.group, output),
        train_dataset=rows.select(lessons.order),
        reward_funcs=_trl_reward(diary, tokenizer, lessons.reward),
        peft_config=adapter,
    )
    trainer.diary = diary
    # It prints to standard output, which belongs to progress lines.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _config(task: TrainingTask, batch: Batch, group: int, output: Path) -> GRPOConfig:
    """TRL's name for each of our settings.

    The loss is averaged over all tokens of an update (TRL's dapo): the token mean of the published
    code, but the same whatever the micro batch. The KL term is the plain k3 estimate (low_var_kl).
    """
    training, draw = task.training, task.training.sampling
    on_gpu = torch.cuda.is_available()
    use_vllm = on_gpu and sampling.resolve(task.sampler) is SamplerBackend.VLLM
    if use_vllm:
        # vLLM logs to standard output, which belongs to progress lines.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    return _Config(
        output_dir=str(output),
        seed=derive_seed(task.seed, task.iteration, task.stage),
        max_steps=training.steps * batch.updates,
        per_device_train_batch_size=batch.micro,
        gradient_accumulation_steps=batch.accumulation,
        steps_per_generation=batch.updates * batch.accumulation,
        num_generations=group,
        shuffle_dataset=False,
        temperature=draw.temperature,
        top_p=draw.top_p,
        top_k=draw.top_k,
        max_completion_length=draw.max_tokens,
        use_vllm=use_vllm,
        loss_type="dapo",
        scale_rewards="group",
        epsilon=training.clip_low,
        epsilon_high=training.clip_high,
        beta=training.kl_coefficient,
        use_bias_correction_kl=False,
        learning_rate=training.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        disable_dropout=True,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        ddp_find_unused_parameters=False,
        logging_steps=1,
        # A loss that is no number must be seen.
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _trl_reward(diary: Diary, tokenizer: Any, reward: Reward) -> Any:
    """The reward as TRL calls it: once for all completions of this rank in a step."""

    def score(completion_ids: list[list[int]], row: list[int], **_: Any) -> list[float]:
        started, graded = time.perf_counter(), answers.grading_seconds()
        texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        scores = reward(diary.step, texts, row)
        diary.noted |= scores.metrics
        diary.noted["rewardSeconds"] = time.perf_counter() - started
        diary.noted["gradingSeconds"] = answers.grading_seconds() - graded
        return list(scores.rewards)

    return score


def _start_model(task: TrainingTask, store: ArtifactStore, start: str) -> tuple[Any, Any]:
    """The model to train, in float32, and its tokenizer.

    Updates of 1e-6 are lost in bfloat16 weights; on GPUs only the arithmetic is bfloat16.
    """
    training = task.training
    folder = store.model(start)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise BadConfiguration(
            f"{start} cannot be loaded as a model: {reason}; correct spec.model or save the model "
            "there with save_pretrained"
        ) from error
    if training.kl_reference is KlReference.BASE_MODEL and training.kl_coefficient > 0:
        if training.lora is not None:
            raise BadConfiguration(
                f"{role(task)}.klReference BaseModel does not go with lora, whose reference is "
                "the start model; write StageStart or remove lora"
            )
        # TRL loads the reference model from where this says that the model is from.
        model.config._name_or_path = str(store.model(task.base_model))
    return model, tokenizer


def _newest(store: ArtifactStore, diary: Diary) -> str | None:
    """The folder of the newest whole step checkpoint, which all ranks go on from."""
    world = ranks()
    found = checkpoints.newest(store, diary.task.prefix) if world.is_main_process else None
    step: int = broadcast_object_list([found.step if found else 0])[0]
    if step == 0:
        return None
    with world.local_main_process_first():
        folder = store.local(checkpoints.step_prefix(diary.task.prefix, step))
    diary.go_on_from(folder)
    log.info("going on after step %d", step)
    return str(folder)


def _save_model(trainer: _Trainer, tokenizer: Any, folder: Path, start: Path) -> None:
    """Write a plain Hugging Face folder, adapters merged.

    The weights are float32, so that small updates add up over iterations. config.json names the
    type of the start model, in which samplers load them.
    """
    accelerator = trainer.accelerator
    model, weights = accelerator.unwrap_model(trainer.model), None
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    else:
        weights = accelerator.get_state_dict(trainer.model)
    if not accelerator.is_main_process:
        return
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    begun_as = json.loads((start / "config.json").read_text())
    config["dtype"] = begun_as.get("dtype") or begun_as.get("torch_dtype") or "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
