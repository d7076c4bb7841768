"""Data: documents read, turned into tokens, put in order and handed out as batches."""

from hermes.data.batches import TextData
from hermes.data.files import sources, spool
from hermes.data.order import Cursor, run_samples, split
from hermes.data.reading import Document, documents
from hermes.data.tokens import TokenStream, tokenize
from hermes.data.vocabulary import manifest

__all__ = [
    "Cursor",
    "Document",
    "TextData",
    "TokenStream",
    "documents",
    "manifest",
    "run_samples",
    "sources",
    "split",
    "spool",
    "tokenize",
]
