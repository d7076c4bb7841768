"""Data: files are read, tokenized, ordered by the seed and drawn as batches."""

from hermes.data.conversations import read_conversations
from hermes.data.dataset import Dataset
from hermes.data.document_reader import Document, TextFormat, read_documents
from hermes.data.example_dataset import ExampleDataset
from hermes.data.file_names import expand_paths
from hermes.data.files import spool
from hermes.data.order import Cursor, count_run_samples, split_windows
from hermes.data.preference_dataset import PreferenceDataset
from hermes.data.preferences import read_pairs
from hermes.data.records import read_records
from hermes.data.text_dataset import TextDataset
from hermes.data.token_stream import TokenStream, tokenize

__all__ = [
    "Cursor",
    "Dataset",
    "Document",
    "ExampleDataset",
    "PreferenceDataset",
    "TextDataset",
    "TextFormat",
    "TokenStream",
    "count_run_samples",
    "expand_paths",
    "read_conversations",
    "read_documents",
    "read_pairs",
    "read_records",
    "split_windows",
    "spool",
    "tokenize",
]
