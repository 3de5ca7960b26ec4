"""Checkpoints of version 5.3 in the layout of sentence-transformers 6, written by it: resave.py FROM TO ..."""

import sys
from pathlib import Path

from sentence_transformers import MultiVectorEncoder, SentenceTransformer

if __name__ == "__main__":
    for source, target in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        library = SentenceTransformer if "dense" in source else MultiVectorEncoder
        library(source, device="cpu").save(target)
        (Path(target) / "README.md").unlink(missing_ok=True)
