"""Small model folders with random weights, as transformers saves them. Run in the export environment:

python make_hf.py DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "model",
    "that",
    "starts",
    "hot",
    "its",
    "first",
    ".",
]
TINY = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}


def tokenizer(folder: Path) -> None:
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.save(str(folder / "tokenizer.json"))


def main(out: Path) -> None:
    torch.manual_seed(0)
    sentiment = BertConfig(
        **TINY, id2label={0: "bad", 1: "fair", 2: "good"}, label2id={"bad": 0, "fair": 1, "good": 2}
    )
    BertForSequenceClassification(sentiment).save_pretrained(out / "sentiment")
    tokenizer(out / "sentiment")

    topics = BertConfig(**TINY, num_labels=4, problem_type="multi_label_classification")
    BertForSequenceClassification(topics).save_pretrained(out / "topics")
    # As older models are laid out: the words alone, and no tokenizer.json.
    (out / "topics" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (out / "topics" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')

    pictures = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        id2label={0: "cat", 1: "dog"},
        label2id={"cat": 0, "dog": 1},
    )
    ViTForImageClassification(pictures).save_pretrained(out / "pictures")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(out / "pictures")

    # As sentence-transformers lays a model out: the encoder in a folder of its own, and what comes after it.
    BertModel(BertConfig(**TINY)).save_pretrained(out / "sentences" / "0_Transformer")
    tokenizer(out / "sentences" / "0_Transformer")
    kinds = (("0_Transformer", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (out / "sentences" / "modules.json").write_text(json.dumps(modules))
    (out / "sentences" / "1_Pooling").mkdir()
    pooling = {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
    }
    (out / "sentences" / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (out / "sentences" / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
