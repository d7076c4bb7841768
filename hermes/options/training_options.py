"""The options of the commands that train: train, finetune, sft and dpo.

Those of the recipe have its defaults.
"""

from hermes.options.optimization_options import make_optimization_options
from hermes.options.option import Option
from hermes.recipe import (
    PREFERENCES,
    Lora,
    Preference,
    Recipe,
)

__all__ = ["TRAINING_OPTIONS"]

RECIPE, PREFERENCE, LORA = Recipe(), Preference(), Lora()


def _make_data_options() -> tuple[Option, ...]:
    group, text = "Data", "Text format"
    return (
        Option("data", short="-d", multiple=True, metavar="FILE", group=group, per_rank=True,
               default_text="standard input",
               help="Training text: .txt, .jsonl, .json, .csv, .tsv or .parquet files, also "
               "compressed, folders, glob patterns, addresses, token files (.bin) or a folder of "
               "hermes prepare; NAME:0.7 with each gives it a share of the samples; repeatable"),
        Option("text_field", default="text", metavar="NAME", group=text,
               help="JSON field or CSV column that holds the text"),
        Option("format", choices=("txt", "jsonl", "json", "csv", "tsv", "parquet"), group=text,
               default_text="by file extension", help="File format of the data"),
        Option("documents", default="file", choices=("file", "lines", "blank-line"), group=text,
               help="What is one document of plain text: a file, a line, or what stands between "
               "blank lines"),
        Option("no_header", type=bool, default=False, group=text,
               help="Rows of .csv and .tsv have no names; a document is a row, its cells joined "
               "by spaces"),
        Option("skip_bad_records", type=bool, default=False, group=text,
               help="Leave out records that cannot be read, instead of stopping at the first"),
        Option("max_bad_records", type=float, default=0.01, metavar="SHARE", group=text,
               help="Stop where more than this share of the records is left out"),
        Option("cache_dir", metavar="DIR", group=text, scope="machine", is_path=True,
               per_rank=True, default_text="the user's cache folder, from 8 MB of text on",
               help="Folder that keeps the tokens of text, so that the next start has them"),
        Option("tokenizer", short="-t", metavar="FILE", group=group, is_path=True, per_rank=True,
               help="Tokenizer: a tokenizer.json, a folder that has one, or hf://OWNER/REPO"),
        Option("train_tokenizer", type=bool, default=False, group=group,
               help="Train a tokenizer on the data first, and save it as --tokenizer if given; "
               "one that is there is used if its manifest fits"),
        Option("force_retrain_tokenizer", type=bool, default=False, group=group, scope="call",
               help="Train the tokenizer anew where --tokenizer is there already, and replace it"),
        Option("vocab_size", short="-v", type=int, default=32_000, group=group,
               help="Vocabulary size of the tokenizer that --train-tokenizer trains"),
        Option("eos", metavar="TOKEN", group=group, fixed=True,
               default_text="as the files beside the tokenizer say",
               help="Token that ends a text, such as '<|endoftext|>'"),
        Option("bos", type=bool, negatable=True, group=group, fixed=True,
               default_text="as the files beside the tokenizer say",
               help="Begin every text with the tokenizer's BOS token; where a chat template is "
               "used, it alone decides"),
        Option("template", metavar="FILE", group=group, is_path=True, per_rank=True,
               default_text="the checkpoint's own, else ChatML",
               help="Chat template, as a Jinja file"),
        Option("val_data", multiple=True, metavar="FILE", group=group, per_rank=True,
               help="Validation text of its own, read as --data is; repeatable"),
        Option("document_mask", type=bool, default=RECIPE.document_mask, group="Sequences",
               scope="recipe", recipe_field="document_mask",
               help="Keep attention and positions inside each document of a sequence"),
        Option("template_arg", multiple=True, metavar="KEY=VALUE", group=group, fixed=True,
               help="Argument of the chat template, with a value in JSON, such as "
               "enable_thinking=false; repeatable"),
        Option("message_token", multiple=True, metavar="NAME", group="Conversations", fixed=True,
               help="Special token that messages may contain, such as '<think>'; in all other "
               "cases such a name in a message stays text; repeatable"),
        Option("val_fraction", type=float, default=RECIPE.val_fraction, group=group,
               scope="recipe", recipe_field="val_fraction",
               help="Fraction of the data held out for validation"),
        Option("hold_out", default="windows", choices=("windows", "documents"), group="Sequences",
               fixed=True,
               help="What --val-fraction holds out of text: its last sequences, or its last whole "
               "documents"),

        Option("train_on_prompt", type=bool, default=False, group="Conversations", fixed=True,
               help="Train on every token, not only on what the assistant says"),
        Option("pack", type=bool, default=True, negatable=True, group="Conversations", fixed=True,
               help="Pack several conversations into one sequence; attention does not cross their "
               "boundaries"),
        Option("overlong", default="error", choices=("error", "drop", "truncate"),
               group="Conversations",
               help="What to do with conversations longer than --seq-len: stop with an error, "
               "leave them out, or keep their beginning"),
        Option("show_samples", type=int, default=0, group="Conversations",
               help="Print the first N conversations with the trained tokens highlighted"),

        Option("no_template", type=bool, default=False, group="Preferences", fixed=True,
               help="Take prompts and completions as plain text, without a chat template"),
        Option("loss", default=PREFERENCE.loss, choices=PREFERENCES, group="Preferences",
               scope="recipe", recipe_field="preference.loss",
               help="Preference loss; sigmoid is DPO, and orpo and simpo need no reference model"),
        Option("beta", type=float, default=PREFERENCE.beta, group="Preferences",
               scope="recipe", recipe_field="preference.beta",
               help="Strength of the pull towards the reference model (orpo: weight of the odds "
               "ratio; simpo: scale of the margin)"),
        Option("label_smoothing", type=float, default=PREFERENCE.label_smoothing,
               group="Preferences", scope="recipe", recipe_field="preference.label_smoothing",
               help="Fraction of preference labels assumed to be flipped (cDPO; sigmoid only)"),
        Option("gamma", type=float, default=PREFERENCE.gamma, group="Preferences",
               scope="recipe", recipe_field="preference.gamma",
               help="Target reward margin (simpo only)"),
        Option("sft_weight", type=float, default=PREFERENCE.sft_weight, group="Preferences",
               scope="recipe", recipe_field="preference.sft_weight",
               help="Weight of the chosen completion's mean token loss, added to the preference "
               "loss"),
        Option("max_len", type=int, group="Preferences", scope="recipe", recipe_field="seq_len",
               default_text="512, or the model's max_seq_len if that is less",
               help="Maximum tokens of a prompt with one completion; longer prompts lose their "
               "beginning"),
        Option("drop_overlong", type=bool, default=False, group="Preferences",
               help="Leave out pairs whose completions alone exceed --max-len, instead of "
               "stopping with an error"),
        Option("reference_cache", metavar="FILE", group="Preferences", is_path=True,
               per_rank=True, default_text="reference.npz in --output",
               help="Log-probabilities under the reference model, read if the file exists and "
               "written otherwise"),
    )  # fmt: skip


def _make_model_options() -> tuple[Option, ...]:
    group, lora = "Model", "LoRA adapters"
    return (
        Option("model", short="-m", default="tiny", metavar="NAME|FILE", group=group,
               is_path=True, per_rank=True,
               help="Architecture to train: the name of a bundled model, a .mal file, or a model "
               "or run whose architecture to take"),
        Option("ignore_fields", alias="--ignore-field", multiple=True, metavar="NAME", group=group,
               help="Pass over this field of the model's config.json, which hermes does not know; "
               "repeatable"),
        Option("checkpoint", short="-c", metavar="MODEL", group=group, fixed=True, is_path=True,
               per_rank=True,
               help="Model to start from: a checkpoint, a run (its newest checkpoint), a Hugging "
               "Face folder, a .safetensors file with --config, or hf://OWNER/REPO[@REVISION]"),
        Option("freeze_layers", type=int, default=RECIPE.freeze_layers, group=group,
               scope="recipe", recipe_field="freeze_layers",
               help="Freeze the embeddings and the first N layers; 0 freezes nothing"),
        Option("freeze", multiple=True, metavar="GLOB", group=group,
               scope="recipe", recipe_field="freeze",
               help="Freeze the tensors whose names match; repeatable"),
        Option("lora_rank", type=int, default=0, group=lora,
               help="Train low-rank adapters of this rank and freeze everything else; 0 trains "
               "the model itself"),
        Option("lora_alpha", type=float, default=LORA.alpha, group=lora,
               help="Scale of the adapters: their output is multiplied by alpha / rank"),
        Option("lora_dropout", type=float, default=LORA.dropout, group=lora,
               help="Dropout probability of the adapters' inputs"),
        Option("lora_targets", default="all", metavar="NAMES", group=lora,
               help="Matrices that get adapters, as a list such as q_proj,v_proj"),
        Option("lora_rslora", type=bool, default=LORA.rslora, group=lora,
               help="Multiply the adapters' output by alpha / sqrt(rank) instead, which keeps its "
               "size at high ranks (rank-stabilized LoRA)"),
        Option("dora", type=bool, default=LORA.dora, group=lora,
               help="Train the length of each row of an adapted matrix apart from its direction "
               "(DoRA)"),
        Option("train_new_tokens", type=bool, default=True, negatable=True, group=lora,
               help="Train the rows of tokens that the model was never trained on, such as a chat "
               "template's, beside the adapters"),
    )  # fmt: skip


def _make_checkpoint_options() -> tuple[Option, ...]:
    group = "Checkpoints"
    return (
        Option("output", short="-o", default="checkpoints", metavar="DIR", group=group,
               scope="call", per_rank=True,
               help="Folder of the run: checkpoints, metrics.jsonl and run.yaml"),
        Option("resume", type=bool, default=False, alias="--auto-resume", group=group,
               scope="call",
               help="Resume training from the newest checkpoint in --output, or start a new run "
               "if there is none"),
        Option("allow_batch_change", type=bool, default=False, group="Safeguards", scope="call",
               help="Allow --resume to change the number of sequences per optimizer step"),
        Option("allow_data_change", type=bool, default=False, group="Safeguards", scope="call",
               help="Allow --resume to continue with other data than the run began with"),
        Option("allow_tokenizer_change", type=bool, default=False, group="Safeguards", scope="call",
               help="Allow --tokenizer to give ids other meanings than the checkpoint's has"),
        Option("force", type=bool, default=False, group="Safeguards", scope="call", repeated=True,
               help="Train although memory or disk space seem too small"),
        Option("auto_batch", type=bool, default=False, group="Safeguards", scope="call",
               repeated=True,
               help="Choose --batch-size and --grad-accum so that a step fits into memory, with as "
               "many samples per step as they say"),
        Option("on_finish", default="", metavar="COMMAND", group="Safeguards", scope="call",
               default_text="nothing", repeated=True, per_rank=True,
               help="Shell command to run when the run ends, also by an error or a signal, such "
               "as one that hands back a rented machine; HERMES_STATUS tells it how"),
        Option("dry_run", type=bool, default=False, group="Safeguards", scope="call",
               help="Check everything and show what would be trained, without training or writing "
               "a run; tokens of long text are kept in the cache"),
        Option("save_every", type=int, default=RECIPE.save_every, group=group,
               scope="recipe", recipe_field="save_every",
               help="Save a checkpoint every N optimizer steps; 0 saves at the end only"),
        Option("save_minutes", type=float, default=0.0, group=group,
               help="Save a checkpoint whenever N minutes have passed since the last; 0 goes by "
               "steps alone"),
        Option("save_every_epoch", type=bool, default=False, group=group,
               help="Save a checkpoint after each epoch, too"),
        Option("keep_last", type=int, group=group, default_text="all",
               help="Keep the newest N checkpoints and delete older ones"),
        Option("keep_every", type=int, group=group,
               help="Also keep the checkpoints whose step is a multiple of N"),
        Option("keep_best", metavar="METRIC", group=group,
               help="Also keep the checkpoint with the best value of this metric, such as "
               "val_loss"),
        Option("push_to_hub", metavar="OWNER/REPO", group=group, scope="call", repeated=True,
               help="Push the model to this Hugging Face Hub repository at the end"),
        Option("push_every_save", type=bool, default=False, group=group, scope="call",
               repeated=True, help="Push every checkpoint that is saved, too; needs --push-to-hub"),
    )  # fmt: skip


def _make_machine_options() -> tuple[Option, ...]:
    group, device = "Distributed", "Device"
    return (
        Option("num_gpus", type=int, default=1, group=group, scope="call", per_rank=True,
               repeated=True, help="Number of processes on this machine, one per GPU"),
        Option("num_processes", type=int, default=1, group=group, scope="call", per_rank=True,
               repeated=True,
               help="Number of processes on this machine, where there is not one GPU for each"),
        Option("max_restarts", type=int, default=0, group=group, scope="call", per_rank=True,
               repeated=True,
               help="Restart all processes up to N times when one is lost"),
        Option("shard", choices=("full", "optimizer"), group=group, scope="machine",
               repeated=True,
               help="Shard the model across processes: weights, gradients and optimizer state "
               "(full), or master weights and optimizer state only (optimizer)"),
        Option("shard_group", type=int, group=group, scope="machine", repeated=True,
               default_text="all processes",
               help="Shard across groups of N neighboring processes, with a full copy in each "
               "group"),
        Option("peer_timeout", type=float, metavar="SECONDS", group=group,
               scope="call", repeated=True, default_text="45, and longer for what may be work",
               help="Give up on a process that has been silent for this long"),

        Option("backend", default="auto", choices=("auto", "torch", "mlx"), group=device,
               scope="machine", per_rank=True, repeated=True,
               help="Backend; auto is mlx on Apple silicon and torch elsewhere"),
        Option("device", metavar="NAME", group=device, scope="machine", per_rank=True,
               repeated=True, default_text="the fastest available",
               help="Device, one of those that hermes doctor lists"),
        Option("precision", default="auto",
               choices=("auto", "float32", "tf32", "bfloat16", "float16", "float64"), group=device,
               help="Precision of matrix products and activations; auto is bfloat16 on GPUs "
               "that have it, float32 on CPUs, and the run's own on resume; master weights and "
               "optimizer state stay in float32 (float64 under float64); float16 scales the loss"),
        Option("deterministic", type=bool, default=False, negatable=True, group=device,
               help="Produce the same bits on every run; refused where the device cannot"),
        Option("grad_checkpoint", type=bool, default=False, group=device,
               help="Recompute activations in the backward pass to save memory (activation "
               "checkpointing)"),
        Option("selective_checkpoint", type=bool, default=False, group=device,
               help="Recompute activations in the backward pass, except outputs of matrix products "
               "and of attention: more memory than --grad-checkpoint, and no product twice"),
        Option("compile", type=bool, negatable=True, group=device, scope="machine",
               repeated=True, default_text="where it pays off", help="Compile the model"),

        Option("config", metavar="FILE", group="Configuration", scope="call", per_rank=True,
               help="YAML file with options, such as the run.yaml of another run; the command "
               "line takes precedence"),
        Option("print_config", type=bool, default=False, group="Configuration", scope="call",
               help="Print every option with its value and what set it, and do nothing else"),
        Option("set", alias="--override", multiple=True, metavar="KEY=VALUE",
               group="Configuration",
               parameter="edits", per_rank=True,
               help="Set a field of the recipe that has no option of its own, such as "
               "optimizer.beta2=0.98; repeatable"),
    )  # fmt: skip


TRAINING_OPTIONS = (
    *_make_data_options(),
    *_make_model_options(),
    *make_optimization_options(),
    *_make_checkpoint_options(),
    *_make_machine_options(),
)
