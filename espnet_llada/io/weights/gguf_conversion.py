"""Writes a GGUF file's weights as a plain fp16 Hugging Face directory.

Read from the GGUF at every start, they would cost each user the dequantization and the
gguf package; converted once, they load like any model.
"""

from __future__ import annotations

import logging
from pathlib import Path

from espnet_llada.import_guards import import_torchaudio
from espnet_llada.io.files import write_json, write_text
from espnet_llada.io.weights.tensors import save_tensors
from espnet_llada.types import UserError

log = logging.getLogger(__name__)


def convert(gguf: Path, home: Path) -> None:
    """Write the causal LM of ``gguf`` into ``home`` (config, fp16 weights, tokenizer).

    Raises:
        UserError: a package that the conversion needs is missing, or the tokenizer is
            not of the one kind that is read here.
    """
    import_torchaudio()
    try:
        import gguf as _  # noqa: F401  (transformers would ask for it less clearly)
        from transformers import AutoModelForCausalLM
    except ImportError as e:
        raise UserError(
            f"{gguf.name}: converting it needs {e.name}; pip install gguf accelerate"
        ) from e
    log.info("converting %s", gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tensors = model.state_dict()
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)  # safetensors refuses shared storage
    tensors = {k: v.half() for k, v in tensors.items()}
    save_tensors(tensors, home / "model.safetensors")
    config = model.config.to_dict()
    for key in ("quantization_config", "dtype", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)  # the first would have it dequantized once more
    config |= {"architectures": [type(model).__name__], "torch_dtype": "float16"}
    # transformers 4 ignores rope_parameters, where 5 puts it; 5 reads both.
    rope = config.get("rope_parameters") or config
    config["rope_theta"] = rope["rope_theta"]
    write_json(home / "config.json", config)
    _convert_tokenizer(gguf, home)


def _convert_tokenizer(gguf: Path, home: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json from the GGUF's metadata.

    Not through transformers: what it makes of a GGUF's tokenizer differs between its
    releases, down to the EOS and to whether BOS is put in front.
    """
    from gguf import GGUFReader, TokenType
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    fields = GGUFReader(gguf).fields
    read = {k.removeprefix("tokenizer.ggml."): f.contents for k, f in fields.items()}
    if (read["model"](), read["pre"]()) != ("gpt2", "smollm"):
        raise UserError(f"{gguf.name}: not a SmolLM tokenizer; name a HF directory")
    tokens = read["tokens"]()
    merges = [tuple(merge.split(" ")) for merge in read["merges"]()]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, read["token_type"](), strict=True)
    special = [token for token, kind in kinds if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens(special)
    write_text(home / "tokenizer.json", tokenizer.to_str(pretty=True))
    config = {
        # The name that transformers 4 and 5 both know.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": read["llama.context_length"](),
        "chat_template": read["tokenizer.chat_template"](),
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        config[f"{name}_token"] = tokens[read[f"{key}_token_id"]()]
    write_json(home / "tokenizer_config.json", config)
