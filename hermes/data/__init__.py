"""Data: documents read, turned into tokens, put in order and handed out as batches."""

from hermes.data.document_reader import Document, documents
from hermes.data.files import sources, spool
from hermes.data.order import Cursor, run_samples, split
from hermes.data.text_dataset import TextData
from hermes.data.token_stream import TokenStream, tokenize
from hermes.tokenizer.training import manifest

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
