"""Shows the launcher that a worker works, until its first step is done."""

import json
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from hermes.distributed.signs_of_work import FIRST_BEAT, Beat, SignsOfWork, count_beats

__all__ = ["Pulse", "get_pulse_path", "read_beat"]


def get_pulse_path(folder: str, attempt: int, rank: int) -> Path:
    """The file by which that worker shows that it works."""
    return Path(folder, f"{attempt:06}-{rank:06}.pulse")


def read_beat(path: Path) -> Beat | None:
    """What a worker said last; None where it does not have to, or not yet."""
    try:
        return Beat(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


class Pulse:
    """The thread that looks at this process, and the file that it writes."""

    def __init__(self, path: Path):
        self._path, self._ended = path, threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin: the other ranks are found."""
        self._write(FIRST_BEAT)  # before anything can keep Python's lock
        self._thread.start()

    def stop(self) -> None:
        """End: the first step is done, and from here on a collective that takes long says it."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        main, signs = threading.main_thread().ident or 0, SignsOfWork()
        for beats in count_beats(signs, main, self._ended):
            self._write(signs.get_beat(beats))

    def _write(self, beat: Beat) -> None:
        beside = self._path.with_suffix(".new")
        try:
            beside.write_text(json.dumps(asdict(beat)), encoding="utf-8")
            beside.replace(self._path)
        except FileNotFoundError:  # the launcher is gone, and its folder with it
            self._ended.set()
        except OSError:  # a full disk: no sign, rather than the last one for ever
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
