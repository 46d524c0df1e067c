"""``python bert_base.py DIR TOKENIZER_DIR``: a BERT-base with random weights (435 MB) as a model folder.

Run by the export environment's interpreter: it needs torch and transformers. The weights are seeded, and the
tokenizer is the one given: bert-base-uncased's vocabulary, which all-MiniLM-L6-v2 shares.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def main(folder: str, tokenizer: str) -> None:
    torch.manual_seed(0)
    BertModel(BertConfig()).eval().save_pretrained(folder)  # the defaults are BERT-base's
    for name in TOKENIZER:
        shutil.copy(Path(tokenizer) / name, Path(folder) / name)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
