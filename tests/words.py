"""A tokenizer of a few words, for tiny models."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [f"w{at}" for at in range(200)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "yes", "no"]


def words(folder: Path, last: str = " [SEP]") -> None:
    """A tokenizer that frames texts and pairs as BERT does: [CLS] w1 w2 [SEP] w3 [SEP]; `last` stands behind."""
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(SPECIAL[:4])
    made.post_processor = processors.TemplateProcessing(
        single=f"[CLS] $A{last}",
        pair=f"[CLS] $A{last} $B:1{last}{':1' if last else ''}",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"unk_token": "[UNK]", "pad_token": "[PAD]"}))
