"""Data: files are read, tokenized, ordered by the seed and drawn as batches."""

from hermes.data.document_reader import Document, read_documents
from hermes.data.files import expand_paths, spool
from hermes.data.order import Cursor, count_run_samples, split_windows
from hermes.data.text_dataset import TextDataset
from hermes.data.token_stream import TokenStream, tokenize
from hermes.tokenizer.training import build_manifest

__all__ = [
    "Cursor",
    "Document",
    "TextDataset",
    "TokenStream",
    "build_manifest",
    "count_run_samples",
    "expand_paths",
    "read_documents",
    "split_windows",
    "spool",
    "tokenize",
]
