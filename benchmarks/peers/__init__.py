"""What people write today for the same job: held against Preheat, in the same rounds.

Each server is one file, written as its documentation shows it, and runs in an environment of its own
(`requirements/`, a file a peer); all leave tokenizer and session to `embedder.py`, but for optimum, which
brings both. They read MODEL (the exported ONNX file), TOKENIZER (tokenizer.json), THREADS and PORT.
"""
