"""The options of generation: sampling, penalties, ends, what is shown, and files of prompts."""

from pathlib import Path

from hermes.options.option import Option

__all__ = ["GENERATION_OPTIONS", "OF_CHECKPOINT", "SAMPLING"]

OF_CHECKPOINT = "the checkpoint's generation_config.json, else {}"

# In the order of `generate` and `chat`, after temperature, top_k, top_p and min_p.
SAMPLING = (
    *("typical_p", "xtc_probability", "xtc_threshold"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_range", "dry_breaker"),
    *("logit_bias", "ban", "min_tokens"),
)

_PENALTIES = "Penalties and bans"
_BATCHES = "Files of prompts"

GENERATION_OPTIONS = (
    Option("typical_p", type=float, default_text=OF_CHECKPOINT.format(1), metavar="P",
           group="Sampling",
           help="Sample from the tokens whose surprise is nearest to the expected one and whose "
           "probabilities add up to P; 1 disables the limit"),
    Option("xtc_probability", type=float, default_text="0", metavar="P", group="Sampling",
           help="How often only the least likely of the tokens above --xtc-threshold stays (XTC)"),
    Option("xtc_threshold", type=float, default_text="0.1", metavar="P", group="Sampling",
           help="Probability from which XTC removes tokens"),
    Option("min_tokens", type=int, default_text=OF_CHECKPOINT.format(0), group="Sampling",
           help="Minimum number of tokens before one that ends the text"),
    # Of scope call, since train has a function of this name, which run.yaml has not.
    Option("stop", multiple=True, metavar="TEXT", group="Sampling", scope="call",
           help="End before this text, which is not shown; repeatable"),
    Option("stop_id", type=int, multiple=True, metavar="ID", group="Sampling",
           help="End at this token, too; repeatable"),
    Option("context_overflow", default="stop", choices=("stop", "slide"), group="Sampling",
           help="Where the context is full: stop, or slide, which forgets its first half"),
    Option("json_schema", type=Path, metavar="FILE", group="Sampling",
           help="Write JSON of the JSON schema in FILE, whatever the model would; needs the extra "
           "serve"),
    Option("num_beams", type=int, default=1, metavar="N", group="Sampling",
           help="Search the most likely text with N beams instead of sampling; --num-samples is "
           "then how many of the best are shown"),
    Option("length_penalty", type=float, default=1.0, metavar="A", group="Sampling",
           help="Rank the beams' texts by their log-probability over their length to this power"),
    Option("logprobs", type=int, metavar="N", group="Sampling",
           help="With --json, give the log-probability of each token, and the N most likely ones"),
    Option("echo", type=bool, default=False, group="Sampling",
           help="Put the prompt before the text; with --max-tokens 0 and --logprobs, only score "
           "the prompt"),

    Option("repetition_penalty", type=float, default_text=OF_CHECKPOINT.format(1), metavar="R",
           group=_PENALTIES,
           help="Divide positive logits of tokens that the prompt or the text has by R, and "
           "multiply negative ones"),
    Option("presence_penalty", type=float, default_text="0", metavar="A", group=_PENALTIES,
           help="Subtract A from the logits of tokens that the text has"),
    Option("frequency_penalty", type=float, default_text="0", metavar="A", group=_PENALTIES,
           help="Subtract A from a token's logit for each time that the text has it"),
    Option("no_repeat_ngram", type=int, default_text=OF_CHECKPOINT.format(0), metavar="N",
           group=_PENALTIES,
           help="Never repeat N tokens in a row; 0 allows it"),
    Option("dry_multiplier", type=float, default_text="0", metavar="A", group=_PENALTIES,
           help="Strength of the penalty on prolonging repetitions (DRY)"),
    Option("dry_base", type=float, default_text="1.75", metavar="A", group=_PENALTIES,
           help="Growth of DRY's penalty with each token of the repetition"),
    Option("dry_allowed_length", type=int, default_text="2", metavar="N", group=_PENALTIES,
           help="Length of a repetition from which DRY acts"),
    Option("dry_range", type=int, default_text="0", metavar="N", group=_PENALTIES,
           help="DRY looks at the last N tokens only; 0 looks at all"),
    Option("dry_breaker", multiple=True, metavar="TEXT", group=_PENALTIES,
           default_text="newline, colon, quotation mark and asterisk",
           help="No repetition crosses a token that contains TEXT; repeatable"),
    Option("logit_bias", multiple=True, metavar="ID=A", group=_PENALTIES,
           help="Add A to the logit of the token ID; repeatable"),
    Option("ban", multiple=True, metavar="WORD", group=_PENALTIES,
           help="Never write the tokens of this word, at the beginning or behind a space; "
           "repeatable"),

    Option("prompts", type=Path, metavar="FILE", group=_BATCHES,
           help='Continue the "prompt" of each line of a .jsonl file, which may also have options '
           "of its own, such as max_tokens"),
)  # fmt: skip
