"""Small tokenizers of each kind, made here: what they write is known to the byte."""

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SCRIPTS = (
    "The naïve café — “déjà vu”, coöperate",
    "e\u0301a\u0308 z\u0338\u0322a\u0356l",
    "中文汉字測試。",
    "日本語のテキスト",
    "한국어 텍스트",
    "Привет, мир!",
    "Ελληνικά",
    "مرحبا بالعالم",
    "שלום עולם",
    "हिन्दी पाठ",
    "ภาษาไทย",
    "👩‍👩‍👧‍👦 🇩🇪 😀👍🏽",
    "𝔘𝔫𝔦 𓀀 𠮷",
    "tab\tnewline\n  spaces   end ",
    "mixed 中a文b😀c é",
    "a \ufffd that was written",
    "<E4 B8>",
)
ENGLISH = ["The naive cafe deja vu cooperate mixed abc that was written spaces end tab newline"] * 3


def byte_level() -> PreTrainedTokenizerBase:
    """As GPT-2, Llama 3 and Qwen: tokens that begin and end within characters, whole ones among them."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([*ENGLISH, *SCRIPTS[:4] * 2], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


def byte_fallback() -> PreTrainedTokenizerBase:
    """As Llama 2 and Gemma: SentencePiece, `<0xE4>` for what it has no word of; the first space is dropped."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    special = ["<unk>", "<s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, show_progress=False)
    made.train_from_iterator(ENGLISH, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>")


def word_pieces() -> PreTrainedTokenizerBase:
    """As BERT: `##` where a word goes on, spaces between words in the decoder's text alone."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=["[UNK]"], show_progress=False)
    made.train_from_iterator([*ENGLISH, *SCRIPTS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


class OfBytes(PreTrainedTokenizer):
    """A tokenizer in Python, without a fast one: each byte a token, named by `name`."""

    name: Callable[[int], Any] = staticmethod(lambda byte: f"<0x{byte:02X}>")

    @property
    def vocab_size(self) -> int:
        return 256

    def get_vocab(self) -> dict[str, int]:
        return {f"<0x{i:02X}>": i for i in range(256)}

    def _tokenize(self, text: str, **options: object) -> list[str]:
        return [f"<0x{byte:02X}>" for byte in text.encode()]

    def _convert_token_to_id(self, token: str) -> int:
        return int(token[3:5], 16)

    def _convert_id_to_token(self, index: int) -> Any:
        return type(self).name(index)

    def convert_tokens_to_string(self, tokens: list[Any]) -> str:
        raw = b"".join(t if isinstance(t, bytes) else bytes.fromhex(t[3:5]) for t in tokens)
        return raw.decode("utf-8", "replace")


class NamedByBytes(OfBytes):
    """As those around tiktoken: a token's name is its bytes."""

    name = staticmethod(lambda byte: bytes([byte]))


KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "word pieces": word_pieces,
    "in Python": OfBytes,
    "named by bytes": NamedByBytes,
}
