"""MAL, the Model Architecture Language: files of architecture to specs and back.

`load` a bundled name, a file or a text; `dumps` a spec in canonical form; `edit` one field. The
language is written down in `specs/mal.md`.
"""

from hermes.mal.edits import edit, edit_all
from hermes.mal.files import MalFile, list_bundled, load, loads, open_mal, read_mal
from hermes.mal.writer import dumps

__all__ = [
    "MalFile",
    "dumps",
    "edit",
    "edit_all",
    "list_bundled",
    "load",
    "loads",
    "open_mal",
    "read_mal",
]
