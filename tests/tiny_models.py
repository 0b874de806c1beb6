"""Models of a few thousand weights, made in a second, for tests that sample for real."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SPECIAL = ("<|pad|>", "<|end|>", "<|unknown|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token for each printable character and role."""
    words = [*SPECIAL, "\n", *map(chr, range(ord(" "), ord("~") + 1))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, SPECIAL[2]))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        unk_token=SPECIAL[2],
        additional_special_tokens=list(SPECIAL[3:]),
        chat_template=chat_template,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def model(context: int = 256, seed: int = 0) -> Qwen2ForCausalLM:
    """Random weights: writes noise, and ends about one text in a hundred tokens."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer()),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=128,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config).eval()


def save(folder: Path, context: int = 256, seed: int = 0) -> Path:
    """Write model and tokenizer as a Hugging Face folder."""
    model(context, seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
