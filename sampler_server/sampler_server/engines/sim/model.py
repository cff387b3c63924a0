"""The built-in model of ``sim``: a byte-level vocabulary, its tokenizer files and its digest."""

import hashlib
import json
from functools import cache

from .tokens import REGULAR_IDS

__all__ = [
    "CONTEXT_LIMIT",
    "EOS_ID",
    "SPECIAL_TOKENS",
    "VOCAB_SIZE",
    "base_digest",
    "tokenizer_files",
]

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = REGULAR_IDS + len(SPECIAL_TOKENS)
EOS_ID = REGULAR_IDS
CONTEXT_LIMIT = 32768

_VERSION = 1
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def base_digest(name: str = "sim") -> str:
    """The digest that stands for the weights which the model of this name does not have."""
    return "sha256:" + hashlib.sha256(f"sim model {name!r} version {_VERSION}".encode()).hexdigest()


def _byte_vocabulary() -> dict[str, int]:
    """The printable character that byte-level tokenizers write for each byte, to the byte as its
    id.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    vocabulary = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(REGULAR_IDS) if byte not in set(printable))
    vocabulary.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return vocabulary


@cache
def tokenizer_files() -> dict[str, bytes]:
    """``tokenizer.json`` and ``tokenizer_config.json``: byte b has id b, ChatML as the chat
    template.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=_byte_vocabulary(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL_TOKENS[0],
        "pad_token": SPECIAL_TOKENS[0],
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT_LIMIT,
        "chat_template": _CHAT_TEMPLATE,
    }
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }
