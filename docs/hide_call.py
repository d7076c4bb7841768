"""For the reference: functions as they are called, without what a decorator passes to them."""

from typing import Any

import griffe


class HideCall(griffe.Extension):
    """Leave out the first parameter of functions under `bind_call`, which no caller gives."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Called by griffe for each function that it has read."""
        if any("bind_call" in str(decorator.value) for decorator in func.decorators):
            del func.parameters["call"]
