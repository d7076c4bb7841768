"""Every option by name. What one command has otherwise stands in `hermes.options.commands`."""

from pathlib import Path

from hermes.options.generation_options import GENERATION_OPTIONS, OF_CHECKPOINT
from hermes.options.option import Option
from hermes.options.training_options import TRAINING_OPTIONS

__all__ = ["OPTIONS"]

FLOAT_TYPES = ("float32", "bfloat16", "float16")


# Of the commands that use, convert, inspect or judge what was trained.
OTHER_OPTIONS = (
    Option("input", short="-i", alias="--data", multiple=True, metavar="FILE", parameter="inputs",
           default_text="standard input",
           help="Training text: .txt, .jsonl, .json, .csv, .tsv or .parquet files, also "
           "compressed, folders, glob patterns or addresses; repeatable"),
    Option("split", type=Path, metavar="DIR",
           help="Folder to write vocab.json, merges.txt, special_tokens.txt and "
           "special_tokens_map.json to, besides"),
    Option("model_type", default="bpe", choices=("bpe", "unigram"),
           help="Algorithm that chooses the vocabulary: bpe merges bytes, or with --byte-fallback "
           "characters; unigram is SentencePiece's model of characters"),
    Option("byte_fallback", type=bool, default=False,
           help="Make a vocabulary of characters in SentencePiece's style, which spells rare "
           "ones in bytes"),
    Option("preset", choices=("gpt-2", "llama-bpe", "qwen2"), default_text="llama-bpe",
           help="Pre-tokenization of byte-level BPE: the pattern that splits text before merges "
           "are learned"),
    Option("nfc", type=bool, default=False, help="Normalize text to Unicode NFC"),
    Option("fold_ascii", type=bool, default=False,
           help="Replace accented Latin letters, ligatures and typographic punctuation by ASCII"),
    Option("special_token", multiple=True, metavar="NAME", parameter="special_tokens",
           help="Additional special token, such as '<|eot_id|>' of a chat template; repeatable"),

    Option("workers", type=int, default_text="all cores of one process",
           help="Number of processes that tokenize, on a core each"),
    Option("shard_size", type=int, default=100_000_000, metavar="BYTES",
           help="Text per shard, in bytes of UTF-8"),
    Option("part", metavar="I/N",
           help="Do only part I of N, as one of an array of jobs on the same --output"),
    Option("document", type=int, metavar="N", help="Number of the document, from 0"),
    Option("step", type=int, metavar="S",
           help="Optimizer step, from 1, whose documents are shown"),
    Option("kind", default="text", choices=("text", "conversations", "pairs"), closed_choices=True,
           help="What the data is for: text for train, conversations for sft, pairs for dpo"),
    Option("near_duplicates", type=float, metavar="SIMILARITY", default_text="not looked for",
           help="Find documents that share this much of their text, such as 0.8; needs the extra "
           "dedup"),
    Option("plot", type=Path, metavar="FILE", help="Picture of the lengths to write: .png, .svg "
           "or .pdf"),
    Option("tokens_per_second", type=float, default=0.0, metavar="N", default_text="unknown",
           help="Speed of training, of all processes together, to tell how many hours a run takes"),
    Option("price_per_hour", type=float, default=0.0, metavar="PRICE", default_text="unknown",
           help="Price of an hour at that speed, to tell what a run costs"),
    Option("tokens", metavar="N", default_text="as --max-steps say",
           help="Tokens of the whole run, such as 2B or 2e9, instead of --max-steps"),
    Option("hardware", metavar="NAME", default_text="the processors of this machine",
           help="Device to plan for: h200, h100, a100, l40s, l4, rtx4090 "
           "or m3-max"),
    Option("params", metavar="N",
           help="Parameters of the model, such as 100M"),
    Option("depth", type=int, metavar="LAYERS", default_text="as --params say",
           help="Layers of the model, from which its other sizes follow"),
    Option("memory", type=float, default=0.0, metavar="GB", default_text="the hardware's",
           help="Memory for one process"),
    Option("watts", type=float, default=0.0, metavar="W", default_text="the hardware's",
           help="Power of one device, to tell the energy of a run"),
    Option("merge", type=bool, default=False,
           help="Write the manifest of --output, once all of its parts are done"),

    Option("use_ema", type=bool, default=False, group="Model",
           help="Take the average of the weights that a run with --ema keeps"),
    Option("prompt", short="-p", default="", metavar="TEXT", group="Sampling",
           help="Text to continue; - reads it from standard input"),
    Option("system", default="", metavar="TEXT", group="Sampling", help="System prompt"),
    Option("max_tokens", type=int, default=100, group="Sampling",
           help="Maximum number of tokens to generate"),
    Option("temperature", type=float, default_text=OF_CHECKPOINT.format(0.8),
           group="Sampling",
           help="Sampling temperature; 0 always takes the most likely token"),
    Option("top_k", type=int, default_text=OF_CHECKPOINT.format(0),
           metavar="K", group="Sampling",
           help="Sample from the K most likely tokens only; 0 disables the limit"),
    Option("top_p", type=float, default_text=OF_CHECKPOINT.format(1),
           metavar="P", group="Sampling",
           help="Sample from the most likely tokens whose probabilities add up to P; 1 disables "
           "the limit"),
    Option("min_p", type=float, default_text=OF_CHECKPOINT.format(0),
           metavar="P", group="Sampling",
           help="Sample only from tokens at least P times as likely as the most likely one; 0 "
           "disables the limit"),
    Option("num_samples", type=int, default=1, group="Sampling",
           help="Number of texts to generate, with consecutive seeds"),
    Option("json", type=bool, default=False, parameter="as_json",
           help="Print JSON to standard output"),

    Option("tasks", multiple=True, metavar="NAMES", group="Tasks",
           help="Tasks of lm-evaluation-harness, such as hellaswag,arc_easy, groups or patterns of "
           "them; repeatable; needs the extra tasks"),
    Option("include_path", type=Path, metavar="DIR", group="Tasks",
           help="Folder with tasks of your own, in the harness's YAML"),
    Option("num_fewshot", type=int, metavar="N", default_text="as the task says", group="Tasks",
           help="Solved examples before each question; a task may fix them at 0"),
    Option("limit", type=float, metavar="N", default_text="all", group="Tasks",
           help="Questions of each task, for a quick look; below 1 a share of them"),
    Option("apply_chat_template", type=bool, default=False, group="Tasks",
           help="Ask by the checkpoint's chat template, examples and question as messages"),

    Option("to", default="hermes", choices=("hermes", "hf"), closed_choices=True,
           help="Target format: a hermes checkpoint, or a folder that other tools read as a "
           "Hugging Face model"),
    Option("dtype", choices=FLOAT_TYPES, closed_choices=True,
           default_text="as stored", help="Data type of the weights written"),
    Option("public", type=bool, default=False,
           help="Make a newly created repository public; without it, it is private"),
    Option("adapter", type=Path, metavar="DIR",
           help="LoRA adapters to merge: a run that trained some, or a folder that PEFT or "
           "mlx-lm wrote"),

    Option("port", type=int, default=8265, metavar="N",
           help="Port of the page on this machine; 0 takes any that is free"),
    Option("model_name", metavar="NAME", group="Server", default_text="the folder's name",
           help="Name by which clients ask for the model"),
    Option("host", default="127.0.0.1", metavar="ADDRESS", group="Server",
           help="Address to listen on; one that other machines reach needs --api-key"),
    Option("api_key", metavar="KEY", group="Server", default_text="HERMES_API_KEY, else none",
           help="Key that clients of the API must send"),
    Option("allow_host", multiple=True, metavar="NAME", group="Server",
           help="Further name by which browsers may call this machine; repeatable"),
    Option("rows", type=int, default=16, group="Server",
           help="Number of texts that are written at once"),
    Option("max_queue", type=int, default=1024, group="Server",
           help="Number of texts that may wait; more are refused with status 429"),
    Option("context", type=int, group="Server", default_text="the model's max_seq_len",
           help="Tokens that a text may have with its prompt; with --rows it bounds the memory of "
           "the KV cache"),
    Option("batch_invariant", type=bool, default=False, group="Server",
           help="Compute each text with the same bits whoever is served beside it; slower"),
    Option("timeout", type=float, default=600, metavar="SECONDS", group="Server",
           help="Give up on a text that is not done by then"),
    Option("open", type=bool, default=False, help="Open the page in the browser"),
    Option("png", type=Path, short="-o", alias="--output", metavar="FILE",
           default_text="RUN/plots/loss.png",
           help="Picture to write: .png, .svg or .pdf; the default for several runs is "
           "plots/compare.png in the first"),
    Option("no_png", type=bool, default=False, help="Draw in the terminal only"),
    Option("write", type=bool, default=False,
           help="Rewrite the files instead of printing to standard output"),
    Option("check", type=bool, default=False, parameter="only_check",
           help="Change nothing; exit with 1 if a file is not in canonical form"),
    Option("drop_comments", type=bool, default=False,
           help="Allow --write to drop the comments of a file"),

    Option("distributed", type=bool, default=False, group="Distributed",
           help="Check that several processes can work together"),

    Option("against", default="numpy", metavar="NAME", group="Backends",
           help="Reference backend; numpy is the float64 oracle"),
    Option("level", multiple=True, metavar="LEVEL", group="Selection", parameter="levels",
           help="Run only this level, such as L1, or range of levels, such as L0-L2; repeatable"),
    Option("law", multiple=True, metavar="GLOB", group="Selection", parameter="laws",
           help="Run only the laws that match, such as 'L1/log*'; repeatable"),
    Option("case", multiple=True, metavar="GLOB", group="Selection", parameter="cases",
           help="Run only the cases that match, such as '*rope*'; repeatable"),
    Option("long", type=bool, default=False, group="Selection",
           help="Include the bigger models and the slower variants"),
    Option("fault", multiple=True, metavar="GLOB", group="Selection", parameter="faults",
           help="Plant only the faults that match, such as 'rope*'; repeatable"),
    Option("random", type=int, metavar="N", group="Selection",
           help="Change N random tokens of the backend's source instead, one at a time and in "
           "memory"),
    Option("html", type=Path, metavar="FILE", group="Reports", parameter="html_file",
           help="Write the certificate as an HTML page"),
    Option("xfail", type=Path, metavar="FILE", group="Reports",
           help="Known failures in TOML, each with its reason and expiry date"),
    Option("cases", type=bool, default=False, group="Selection", parameter="names",
           help="List the name of every case, too"),
)  # fmt: skip

OPTIONS = {
    option.name: option for option in (*TRAINING_OPTIONS, *OTHER_OPTIONS, *GENERATION_OPTIONS)
}
