"""The options of the commands that judge a backend."""

from pathlib import Path

from hermes.options.option import Argument, CommandOptions, Overrides

__all__ = ["CONFORMANCE_COMMANDS"]

_JUDGED: Overrides = {
    "backend": {
        "default": "torch",
        "choices": (),
        "metavar": "NAME",
        "group": "Backends",
        "help": "Backend under test",
    },
    "device": {
        "group": "Backends",
        "default_text": "the backend's own choice",
        "help": "Device of the backend under test",
    },
}
CONFORMANCE_COMMANDS: dict[str, CommandOptions] = {
    "conformance run": CommandOptions(
        (
            "backend",
            "against",
            "level",
            "law",
            "case",
            "device",
            "dtype",
            "json",
            "html",
            "checkpoint",
            "xfail",
            "long",
        ),
        overrides=_JUDGED
        | {
            "dtype": {
                "choices": (),
                "closed_choices": False,
                "default_text": "",
                "multiple": True,
                "metavar": "TYPE",
                "group": "Selection",
                "parameter": "dtypes",
                "help": "Run only the laws that compute in this type, such as tf32; repeatable",
            },
            "json": {
                "type": Path,
                "default": None,
                "metavar": "FILE",
                "group": "Reports",
                "parameter": "json_file",
                "help": "Write the certificate as JSON",
            },
            "checkpoint": {
                "type": Path,
                "short": "",
                "metavar": "PATH",
                "group": "Reports",
                "help": "Store the certificate in this checkpoint, or in the newest one of this "
                "run",
            },
        },
        grouped=True,
    ),
    "conformance list": CommandOptions(("level", "cases", "long")),
    "conformance self-test": CommandOptions(
        ("backend", "against", "device", "fault", "random", "seed", "json"),
        overrides=_JUDGED
        | {
            "seed": {"group": "Selection", "help": "Seed of the draw of --random"},
            "json": {
                "type": Path,
                "default": None,
                "metavar": "FILE",
                "parameter": "json_file",
                "help": "Write the results as JSON; those of --random after each, and a run "
                "with the same file resumes where it stopped",
            },
        },
    ),
    "conformance verify": CommandOptions(
        arguments=(
            Argument("file", "Certificate, or a checkpoint or run that has one", "FILE", type=Path),
        ),
    ),
    "conformance bisect": CommandOptions(
        ("backend", "against", "case", "dtype", "device"),
        overrides=_JUDGED
        | {
            "case": {
                "multiple": False,
                "required": True,
                "metavar": "NAME",
                "parameter": "name",
                "help": "Case of level L1 to bisect; hermes conformance list --level L1 --cases "
                "shows them",
            },
            "dtype": {
                "choices": (),
                "closed_choices": False,
                "default": "float64",
                "default_text": "",
                "metavar": "TYPE",
                "help": "Type in which the backend under test computes",
            },
        },
    ),
}
