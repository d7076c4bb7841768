"""MAL, the Model Architecture Language: text files to specifications and back.

`load` reads a bundled model, a file or a text; `dumps` writes a spec in canonical form; `edit`
changes a field. The language is specified in `specs/mal.md`. In reading order:

    tree     the nodes of a parsed file
    syntax   text -> tree; knows the grammar and no keyword
    words    keywords: kinds, keys, synonyms
    meaning  tree -> spec
    writer   spec -> tree -> text
    files    where a model is looked for
    edits    changes of single fields, for --set
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
