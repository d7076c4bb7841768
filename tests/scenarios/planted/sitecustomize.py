"""What goes wrong in a process of a run, as HERMES_TEST_FAULT says: every Python here imports this.

The plan: phase (start, first, step, evaluation, saving or last), rank (who meets it), nth (of how
many such moments, from 1), delay (seconds into it), action (kill, stop, slow or disconnect), target
(self or launcher), seconds (of slow), folder (where it says that it did it).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

PLAN = json.loads(os.environ.get("HERMES_TEST_FAULT", "null"))
IS_WORKER = any("spawn_main" in word for word in sys.orig_argv)


def is_mine():
    """Whether this process is the rank of the plan, once its launcher has said which it is."""
    rank = os.environ.get("MLX_RANK", os.environ.get("RANK", "-1"))
    return int(rank) == PLAN["rank"]


def disconnect():
    """Shut every connection of this process, as a cable that is pulled; nothing is closed."""
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6):
                    one.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # no socket, or one that listens


def do():
    """Do it, and leave a file that says so."""
    if not is_mine():
        return
    action, own = PLAN["action"], PLAN["target"] == "self"
    pid = os.getpid() if own else os.getppid()
    told = Path(PLAN["folder"], "done.json")
    told.write_text(json.dumps({"pid": pid, "at": time.time()}), encoding="utf-8")
    if action == "kill":
        os.kill(pid, signal.SIGKILL)
    elif action == "stop":
        os.kill(pid, signal.SIGSTOP)
    elif action == "slow":
        words = f"kill -STOP {pid}; sleep {PLAN['seconds']}; kill -CONT {pid}"
        subprocess.Popen(["sh", "-c", words], start_new_session=True)
    elif own:
        disconnect()
    else:
        Path(PLAN["folder"], "disconnect").touch()


def wait_to_disconnect():
    """In the launcher, which serves the store: disconnect when a worker says so."""
    asked = Path(PLAN["folder"], "disconnect")
    while not asked.exists():
        time.sleep(0.01)
    disconnect()


def start_timer(seconds):
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()


def plant():
    """Count the moments of the phase, and start the clock at the one that is meant."""
    from hermes.training.loop import TrainingLoop

    seen = 0

    def meet(loop):
        nonlocal seen
        seen += 1
        if seen == PLAN["nth"] and is_mine():
            start_timer(PLAN["delay"])

    draw, save, evaluate = TrainingLoop._draw_batch, TrainingLoop._save, TrainingLoop._evaluate

    def before_step(self):
        drawn = draw(self)
        if PLAN["phase"] in ("first", "step") or (
            PLAN["phase"] == "last" and self.position.step + 1 == self.total_steps
        ):
            meet(self)
        return drawn

    def before_save(self):
        if PLAN["phase"] == "saving":
            meet(self)
        yield from save(self)

    def before_evaluation(self):
        if PLAN["phase"] == "evaluation":
            meet(self)
        return (yield from evaluate(self))

    TrainingLoop._draw_batch = before_step
    TrainingLoop._save = before_save
    TrainingLoop._evaluate = before_evaluation


if PLAN and IS_WORKER:
    if PLAN["phase"] == "start":
        start_timer(PLAN["delay"])
    else:
        plant()
elif PLAN and PLAN["action"] == "disconnect" and "train" in sys.orig_argv:
    threading.Thread(target=wait_to_disconnect, daemon=True).start()
