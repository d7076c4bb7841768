"""Load one module of a package from a changed text; nothing is written beside its source."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType


class _ChangedLoader(SourceFileLoader):
    """Loads a module from a text, and neither reads nor writes compiled files."""

    def __init__(self, fullname: str, path: str, text: str):
        super().__init__(fullname, path)
        self._text = text

    def get_data(self, path: str) -> bytes:
        return self._text.encode("utf-8")

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self._text.encode("utf-8"), self.path)
        return code


class _ChangedFinder(MetaPathFinder):
    def __init__(self, module: str, text: str):
        self._module, self._text = module, text

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with the changed text for its source."""
        if fullname != self._module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _ChangedLoader(fullname, spec.origin, self._text)
        return spec


def install_text(module: str, text: str) -> None:
    """Let this process import `module` from `text`. Raises RuntimeError where it has been."""
    if module in sys.modules:
        raise RuntimeError(f"{module} has been imported before it could be changed")
    sys.meta_path.insert(0, _ChangedFinder(module, text))
