"""Draws tokens from a Transformers model for many prompts at once: the loop under the sampler.

Instead of `generate`: a prompt that many rows share is read once, rows that have ended leave the
batch, and the cache grows in place. For models of any size on processors that is several times
faster (benchmarks.generation), and no default of the model's generation settings takes part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rzero_core.run import Sampling
from rzero_core.task import BadData, derive_seed

_MAX_ROWS = 1024
_CACHE_BYTES = 2**30
_CACHE_BYTES_ON_GPU = 2**34
_SHARE_LEFT_TO_COMPACT = 0.75
_CACHE_STEP = 64


@dataclass
class Row:
    """One completion being drawn."""

    prompt: int
    """Which of the distinct prompts it continues."""
    tokens: list[int] = field(default_factory=list)
    """Drawn so far, the end token included."""
    finished: bool = False
    """Whether an end token was drawn."""


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[int],
    sampling: Sampling | None,
    *,
    max_tokens: int,
    end_tokens: set[int],
    seed: int,
    on_rows: Callable[[int], None],
) -> list[Row]:
    """One completion for each row, in order; `rows[i]` says which of the prompts row i continues.

    `sampling` None takes the likeliest token. Batches are cut by what their cache may need, longest
    prompts first; each has a random generator of its own, so the process's stays untouched.
    """
    drawn = [Row(prompt) for prompt in rows]
    context = getattr(model.config, "max_position_embeddings", None) or 2**31
    todo = [row for row in drawn if len(prompts[row.prompt]) < context]
    todo.sort(key=lambda row: (-len(prompts[row.prompt]), row.prompt))
    on_rows(len(drawn) - len(todo))
    start = number = 0
    while start < len(todo):
        longest = len(prompts[todo[start].prompt])
        limit = min(max_tokens, context - longest)
        batch = todo[start : start + _rows_that_fit(model, longest + limit)]
        generator = torch.Generator(model.device).manual_seed(derive_seed(seed, number))
        _decode_batch(model, prompts, batch, sampling, limit, end_tokens, generator, on_rows)
        start, number = start + len(batch), number + 1
    return drawn


def _rows_that_fit(model: Any, length: int) -> int:
    """Rows of `length` tokens whose cache, and whose logits, stay within the memory set aside."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize * length
    # Logits, probabilities and their sorted candidates, in 32 bits.
    logits = 3 * 4 * config.vocab_size
    budget = _CACHE_BYTES_ON_GPU if model.device.type == "cuda" else _CACHE_BYTES
    return int(max(1, min(_MAX_ROWS, budget // (cache + logits))))


def _decode_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    rows: list[Row],
    sampling: Sampling | None,
    limit: int,
    end_tokens: set[int],
    generator: torch.Generator,
    on_rows: Callable[[int], None],
) -> None:
    """Draw up to `limit` tokens for each row, into the rows."""
    state = _State.read_prompts(model, prompts, rows)
    ends = torch.tensor(sorted(end_tokens), device=model.device)
    alive = rows
    ended = torch.zeros(len(rows), dtype=torch.bool, device=model.device)
    steps: list[torch.Tensor] = []
    for step in range(limit):
        tokens = _draw(state.logits, sampling, generator)
        steps.append(tokens)
        ended = ended | torch.isin(tokens, ends)
        left = len(alive) - int(ended.sum())
        if left <= _SHARE_LEFT_TO_COMPACT * len(alive) or step + 1 == limit:
            _hand_over(alive, steps, end_tokens)
            steps = []
            on_rows(len(alive) - (left if step + 1 < limit else 0))
            keep = (~ended).nonzero()[:, 0]
            alive = [alive[i] for i in keep.tolist()]
            if not alive or step + 1 == limit:
                return
            state.keep(keep)
            tokens, ended = tokens[keep], ended[keep]
        state.feed(model, tokens)


def _hand_over(rows: list[Row], steps: list[torch.Tensor], end_tokens: set[int]) -> None:
    """Append what was drawn since the last time, up to each row's end token."""
    for row, tokens in zip(rows, torch.stack(steps, dim=1).tolist(), strict=True):
        for place, token in enumerate(tokens):
            if token in end_tokens:
                row.tokens += tokens[: place + 1]
                row.finished = True
                break
        else:
            row.tokens += tokens


class _State:
    """What the model remembers of a batch: its cache, and the logits of the next tokens."""

    def __init__(self, cache: DynamicCache, mask: torch.Tensor, logits: torch.Tensor) -> None:
        self.cache = cache
        self.mask = mask
        """(rows, tokens so far): 0 where a shorter prompt is padded on its left."""
        self.logits = logits
        """(rows, vocabulary)"""

    @classmethod
    def read_prompts(
        cls, model: Any, prompts: Sequence[Sequence[int]], rows: list[Row]
    ) -> "_State":
        """Run each distinct prompt of the rows once, then copy its state to all of its rows."""
        distinct = list(dict.fromkeys(row.prompt for row in rows))
        longest = max(len(prompts[prompt]) for prompt in distinct)
        padding = [longest - len(prompts[prompt]) for prompt in distinct]
        device = model.device
        tokens = torch.tensor(
            [[0] * pad + list(prompts[p]) for pad, p in zip(padding, distinct, strict=True)],
            device=device,
        )
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding], device=device)
        cache = _growing_cache(model)
        logits = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        state = cls(cache, mask, logits)
        place = {prompt: i for i, prompt in enumerate(distinct)}
        state.keep(torch.tensor([place[row.prompt] for row in rows], device=device))
        return state

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows, (kept,), of which some may come more than once."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
        self.logits = self.logits[rows]

    def feed(self, model: Any, tokens: torch.Tensor) -> None:
        """Append one token to each row, (rows,)."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self.logits = model(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.mask.sum(1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]


class _GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer that reserves room in steps; the usual one copies everything at every token."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys = self._append("_key_room", self.keys, key_states)
        self.values = self._append("_value_room", self.values, value_states)
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        return self.keys, self.values

    def _append(self, room_name: str, old: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        held = 0 if old is None else old.shape[-2]
        length = held + new.shape[-2]
        room: torch.Tensor | None = getattr(self, room_name, None)
        if old is None or room is None or room.shape[-2] < length or len(room) != len(new):
            rows, heads, _, width = new.shape
            room = new.new_empty(rows, heads, length + _CACHE_STEP, width)
            if old is not None:
                room[:, :, :held] = old
            setattr(self, room_name, room)
        room[:, :, held:length] = new
        return room[:, :, :length]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._key_room = self._value_room = None


def _growing_cache(model: Any) -> DynamicCache:
    """The model's own kind of cache, with its plain layers made to grow in place."""
    cache = DynamicCache(config=model.config)
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [_GrowingLayer() for _ in cache.layers]  # type: ignore[no-untyped-call]
    return cache


def _draw(
    logits: torch.Tensor, sampling: Sampling | None, generator: torch.Generator
) -> torch.Tensor:
    """One token for each row of (rows, vocabulary). Raises `BadData` when they are no numbers."""
    if sampling is None:
        return logits.argmax(-1)
    weights = torch.softmax(logits.float() / sampling.temperature, dim=-1)
    if sampling.top_k == 0:
        return _draw_places(weights, sampling.top_p, generator)
    weights, tokens = weights.topk(min(sampling.top_k, weights.shape[-1]))
    return tokens.gather(1, _draw_places(weights, sampling.top_p, generator)[:, None])[:, 0]


def _draw_places(weights: torch.Tensor, top_p: float, generator: torch.Generator) -> torch.Tensor:
    """One column for each row of (rows, columns), from the nucleus of mass `top_p`.

    Drawn from all columns, and again where the column is outside the nucleus: where those of
    greater weight already hold `top_p` of the mass. That is the same distribution, and sorting a
    whole vocabulary would take longer than a small model's forward pass.
    """
    cumulative = weights.cumsum(-1)
    if not bool(torch.isfinite(cumulative[:, -1]).all()):
        raise BadData("the model's probabilities are not numbers; its training has diverged")
    places = torch.empty(len(weights), dtype=torch.long, device=weights.device)
    rows = torch.arange(len(weights), device=weights.device)
    while len(rows):
        total = cumulative[:, -1:]
        point = total * torch.rand(len(rows), 1, generator=generator, device=weights.device)
        place = torch.searchsorted(cumulative, point, right=True).clamp(max=weights.shape[-1] - 1)
        weight = weights.gather(1, place)
        accepted = weight[:, 0] > 0
        if top_p < 1.0:
            heavier = weights.where(weights > weight, 0.0).sum(-1, keepdim=True)
            accepted &= (heavier < top_p * total)[:, 0]
        places[rows] = place[:, 0]
        rows, weights, cumulative = (x[~accepted] for x in (rows, weights, cumulative))
    return places
