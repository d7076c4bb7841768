"""The options of the commands that prepare text, inspect, and plan."""

import dataclasses
from pathlib import Path

from hermes.options.option import GROUP_OF_REST, Argument, CommandOptions, Overrides
from hermes.options.training_commands import CALL_DISPLAY, TEXT, TEXT_FILES

__all__ = ["TOOL_COMMANDS"]

_OF_A_RUN = {"group": GROUP_OF_REST, "default_text": "the run's, or that of hermes train"}
_RUN_OR_CHECKPOINT = Argument("path", "Checkpoint, or run with checkpoints", "PATH", type=Path)

# Their help has no headings.
_SHOWN: Overrides = {
    name: {**fields, "group": GROUP_OF_REST} for name, fields in CALL_DISPLAY.items()
}

TOOL_COMMANDS: dict[str, CommandOptions] = {
    "quickstart": CommandOptions(
        ("output",),
        overrides={
            "output": {
                "type": Path,
                "default": "quickstart",
                "help": "Folder to write to; what an earlier quickstart left there is replaced",
            },
        },
    ),
    "train-tokenizer": CommandOptions(
        (
            "input",
            "output",
            "vocab_size",
            "model_type",
            "byte_fallback",
            "preset",
            "nfc",
            "fold_ascii",
            "special_token",
            "split",
            *TEXT,
            "force_retrain_tokenizer",
        ),
        (dataclasses.replace(TEXT_FILES, help="More files, as with --input"),),
        overrides={
            "output": {
                "type": Path,
                "default": "tokenizer.json",
                "metavar": "FILE",
                "help": "Tokenizer file to write",
            },
            "vocab_size": {"help": "Vocabulary size, special tokens included"},
            "format": {"parameter": "file_format"},
            "force_retrain_tokenizer": {
                "help": "Train anew where --output is there already, and replace it",
            },
        },
    ),
    "prepare": CommandOptions(
        (
            *("data", *TEXT, "tokenizer", "eos", "bos", "output"),
            *("shard_size", "workers", "part", "merge", "verbose", "quiet", "log_file", "json"),
        ),
        (TEXT_FILES,),
        overrides={
            "data": {
                "help": "Text to tokenize: .txt, .jsonl, .json, .csv, .tsv or .parquet files, "
                "also compressed, folders, glob patterns or addresses; repeatable",
            },
            "output": {
                "type": Path,
                "default": None,
                "required": True,
                "group": "Data",
                "help": "Folder to write, or to resume where an earlier attempt stopped",
            },
            **_SHOWN,
            "json": {"help": "Print what was made as a JSON object"},
        },
    ),
    "data check": CommandOptions(
        (
            *("data", "text_field", "format", "documents", "no_header", "tokenizer", "val_data"),
            *("kind", "template", "seq_len", "near_duplicates", "show_samples", "plot"),
            *("batch_size", "grad_accum", "epochs", "tokens_per_second", "price_per_hour", "json"),
        ),
        (TEXT_FILES,),
        overrides={
            "data": {
                "help": "Data to look through: text in any form that hermes prepare takes, or "
                "records of conversations or pairs"
            },
            "tokenizer": {
                "help": "Tokenizer to count tokens with: a tokenizer.json, a folder that has "
                "one, or hf://OWNER/REPO",
            },
            "val_data": {"help": "Validation text, whose documents should not be in --data"},
            "seq_len": {"default": 256, "default_text": "", "group": "Data"},
            "template": {"default_text": "the tokenizer's own, else ChatML"},
            "show_samples": {
                "default": 3,
                "group": "Data",
                "help": "Print the first N examples with the trained tokens highlighted",
            },
            "batch_size": {
                "group": "Data",
                "help": "Sequences per micro-batch of all processes, to tell how many steps a run "
                "takes",
            },
            "grad_accum": {"group": "Data"},
            "epochs": {"group": "Data"},
            "json": {"help": "Print what was found as a JSON object"},
        },
    ),
    "data verify": CommandOptions(
        ("json",),
        (Argument("folder", "Folder of hermes prepare", "DIR", type=Path),),
    ),
    "data show": CommandOptions(
        (
            *("document", "step", "tokenizer", "seq_len", "batch_size", "grad_accum", "seed"),
            "val_fraction",
        ),
        (Argument("folder", "Folder of hermes prepare, or of a run", "DIR", type=Path),),
        overrides={
            "document": {"default_text": "0, without --step"},
            "step": {
                "help": "Optimizer step, from 1, whose sequences are shown: those of a run, "
                "or those that a run on prepared text takes"
            },
            "tokenizer": {"default_text": "the folder's own"},
            "seq_len": _OF_A_RUN,
            **{
                name: _OF_A_RUN | {"default": None}
                for name in ("batch_size", "grad_accum", "seed", "val_fraction")
            },
        },
    ),
    "data trace": CommandOptions(
        ("document", "step", "json"),
        (Argument("run", "Folder of a run of hermes train or finetune", "RUN", type=Path),),
        overrides={
            "document": {
                "type": str,
                "metavar": "FILE:LINE",
                "help": "Document whose steps are told: where it begins in the data",
            },
            "step": {"help": "Optimizer step, from 1, whose documents are told"},
            "json": {"help": "Print what was found as a JSON object"},
        },
    ),
    "plan": CommandOptions(
        (
            *("model", "batch_size", "grad_accum", "max_steps", "batch_size_schedule"),
            *("seq_len", "max_len", "tokens", "document_mask", "freeze_layers", "freeze"),
            *("lora_rank", "lora_targets", "dora", "optimizer", "moments", "group", "ema"),
            *("num_processes", "shard", "shard_group", "backend", "precision", "grad_checkpoint"),
            *("selective_checkpoint", "compile"),
            *("hardware", "memory", "tokens_per_second", "price_per_hour", "watts"),
            *("config", "set", "json"),
        ),
        (
            Argument(
                "found",
                "Architecture to plan with, as with --model",
                "[MODEL]",
                required=False,
                is_model=True,
            ),
        ),
        overrides={
            "model": {"help": "Architecture: the name of a bundled model, a .mal file, or a run"},
            "num_processes": {"help": "Number of processes of the whole run"},
            "max_len": {
                "default_text": "sequences are planned, not pairs",
                "help": "Plan hermes dpo, whose --batch-size counts pairs: maximum tokens of a "
                "prompt with one completion",
            },
            "set": {
                "parameter": "",
                "help": "Set a key of the architecture, such as model.num_layers=2; repeatable",
            },
            "json": {"parameter": "", "help": "Print the plan as a JSON object"},
        },
    ),
    "recipe": CommandOptions(
        (
            *("params", "depth", "model", "tokens", "device", "num_processes", "vocab_size"),
            *("seq_len", "optimizer", "memory", "output"),
        ),
        overrides={
            "model": {
                "default": None,
                "default_text": "made from --params or --depth",
                "help": "Architecture to work out a run of, instead of a size: the name of a "
                "bundled model, or a .mal file",
            },
            "tokens": {
                "default_text": "20 for each parameter",
                "help": "Tokens of the whole run, such as 2B",
            },
            "device": {
                "default": "cpu",
                "default_text": "",
                "choices": ("h200", "h100", "a100", "l40s", "l4", "rtx4090", "m3-max", "cpu"),
                "help": "Device to train on; cpu is this machine",
            },
            "num_processes": {"help": "Number of processes of the whole run, a device for each"},
            "vocab_size": {"help": "Vocabulary size of the tokenizer"},
            "seq_len": {"default_text": "2048, 512 on cpu, or the model's if that is less"},
            "optimizer": {
                "default": "adamw",
                "default_text": "",
                "choices": ("adamw", "muon", "normuon"),
            },
            "memory": {"default_text": "the device's"},
            "output": {
                "type": Path,
                "default": None,
                "metavar": "FILE",
                "default_text": "standard output",
                "help": "File to write",
            },
        },
    ),
    "plot": CommandOptions(
        ("png", "no_png"),
        (Argument("runs", "Folders of the runs", "RUN...", type=Path, repeated=True),),
    ),
    "watch": CommandOptions(
        ("port", "open"),
        (Argument("runs", "Runs, or folders of runs", "RUN...", type=Path, repeated=True),),
    ),
    "models": CommandOptions(("json",)),
    "info": CommandOptions(
        ("model", "ignore_fields", "json"),
        (
            Argument(
                "found",
                "Model to describe, as --model takes it",
                "[MODEL]",
                required=False,
                is_model=True,
            ),
        ),
        overrides={
            "model": {
                "short": "",
                "default": None,
                "metavar": "MODEL",
                "parameter": "name",
                "help": "Bundled model, .mal file (FILE:NAME for one of several models in it), "
                "checkpoint, run, Hugging Face folder or hf://OWNER/REPO",
            },
        },
    ),
    "mal check": CommandOptions(
        arguments=(
            Argument(
                "files",
                "MAL files, bundled names, or - for standard input",
                "FILES...",
                repeated=True,
                is_model=True,
            ),
        ),
    ),
    "mal format": CommandOptions(
        ("write", "check", "drop_comments"),
        (
            Argument(
                "files",
                "MAL files, bundled names, or - for standard input",
                "FILES...",
                repeated=True,
                is_model=True,
            ),
        ),
    ),
    "mal show": CommandOptions(
        arguments=(
            Argument(
                "file", "MAL file, bundled name, or - for standard input", "FILE", is_model=True
            ),
        ),
    ),
    "mal diff": CommandOptions(
        ("json",),
        (
            Argument("a", "Model to start from: a MAL file or a bundled name", "A", is_model=True),
            Argument("b", "Model to compare it with", "B", is_model=True),
        ),
    ),
    "checkpoint list": CommandOptions(
        ("json",), (Argument("run", "Folder of a run, or hf://OWNER/REPO", "RUN", type=Path),)
    ),
    "checkpoint show": CommandOptions(("json",), (_RUN_OR_CHECKPOINT,)),
    "checkpoint verify": CommandOptions(arguments=(_RUN_OR_CHECKPOINT,)),
    "doctor": CommandOptions(
        (
            "json",
            "distributed",
            "num_gpus",
            "num_processes",
            "data",
            "output",
            "peer_timeout",
            "backend",
            "device",
        ),
        overrides={
            "data": {
                "group": "Distributed",
                "default_text": "",
                "help": "Check that every machine reads the same bytes from these files; "
                "repeatable",
            },
            "output": {
                "group": "Distributed",
                "default": None,
                "help": "Check that all processes see what one of them writes into this folder",
            },
        },
        grouped=True,
    ),
}
