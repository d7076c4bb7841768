"""The options of how a run optimizes: batch, optimizer, length, learning rate, evaluation."""

from hermes.options.option import Option
from hermes.recipe import DECAY_SHAPES, MOMENT_TYPES, OPTIMIZERS, SCHEDULES, Recipe

__all__ = ["make_optimization_options"]

RECIPE = Recipe()


def make_optimization_options() -> tuple[Option, ...]:
    """Make them, in the order of --help."""
    group, optimizer = "Optimization", "Optimizer"
    length, schedule = "Run length", "Schedule"
    return (
        Option("lr", type=float, default=RECIPE.lr, group=group,
               scope="recipe", recipe_field="lr", help="Peak learning rate"),
        Option("batch_size", short="-b", type=int, default=RECIPE.batch_size, group=group,
               scope="recipe", recipe_field="batch_size",
               help="Sequences per micro-batch and process"),
        Option("grad_accum", type=int, default=RECIPE.grad_accum, group=group,
               scope="recipe", recipe_field="grad_accum",
               help="Micro-batches per optimizer step (gradient accumulation)"),
        Option("batch_size_schedule", default=RECIPE.batch_size_schedule, metavar="STEP:SIZE,...",
               group=group, scope="recipe", recipe_field="batch_size_schedule",
               default_text="--batch-size throughout",
               help="Batch sizes from steps on, such as 0:8,1000:16, instead of --batch-size"),
        Option("seq_len_schedule", default=RECIPE.seq_len_schedule, metavar="STEP:LENGTH,...",
               group=group, scope="recipe", recipe_field="seq_len_schedule",
               default_text="--seq-len throughout",
               help="Lengths from steps on, such as 0:128,1000:512: before the last, each "
               "sequence of --seq-len is split into shorter ones, so a step has as many tokens"),
        Option("seq_len", type=int, group=group, scope="recipe", recipe_field="seq_len",
               default_text="256, or the model's max_seq_len if that is less",
               help="Sequence length in tokens"),
        Option("grad_clip", type=float, default=RECIPE.grad_clip, group=optimizer,
               scope="recipe", recipe_field="grad_clip",
               help="Maximum gradient norm; 0 disables clipping"),
        Option("weight_decay", type=float, default=RECIPE.optimizer.weight_decay, group=optimizer,
               scope="recipe", recipe_field="optimizer.weight_decay",
               help="Weight decay, decoupled, applied to matrices only"),
        Option("optimizer", choices=OPTIMIZERS, default_text="adamw", group=optimizer,
               scope="recipe", recipe_field="optimizer.name",
               help="Optimizer; muon and normuon train the matrices inside blocks and leave the "
               "rest to AdamW"),
        Option("moments", default=RECIPE.optimizer.moments, choices=MOMENT_TYPES, group=optimizer,
               scope="recipe", recipe_field="optimizer.moments",
               help="Type in which the optimizer keeps its moments; bfloat16 halves their memory, "
               "float8 quarters it; bfloat16-stochastic takes a beta2 up to 0.999, too"),
        Option("group", multiple=True, nargs=2, metavar="GLOB SETTINGS", group=optimizer,
               scope="recipe", recipe_field="groups",
               help="Settings of the tensors whose names match, such as 'lm_head.*' "
               "lr=1e-3,weight_decay=0; lr is their peak, lr_scale a multiple of --lr; of a "
               "tensor's groups the first holds; repeatable"),
        Option("ema", type=float, default=RECIPE.ema, metavar="DECAY", group=optimizer,
               scope="recipe", recipe_field="ema",
               help="Keep an exponential moving average of the weights, such as 0.999, and "
               "evaluate it, too; 0 keeps none"),
        Option("z_loss", type=float, default=RECIPE.z_loss, metavar="WEIGHT", group=optimizer,
               scope="recipe", recipe_field="z_loss",
               help="Weight of the square of each target's log-sum-exp, added to the loss, such "
               "as 1e-4; 0 adds nothing"),
        Option("loss_scale", type=float, default=RECIPE.loss_scaling.initial, group=optimizer,
               scope="recipe", recipe_field="loss_scaling.initial",
               help="First loss scale under --precision float16, which a run then adjusts; "
               "--set loss_scaling.interval=1000 and the like change how"),
        Option("seed", type=int, default=RECIPE.seed, group=group,
               scope="recipe", recipe_field="seed",
               help="Seed of initialization, data order and dropout"),

        Option("epochs", short="-e", type=float, default=RECIPE.epochs, group=length,
               scope="recipe", recipe_field="epochs", help="Number of passes over the data"),
        Option("max_steps", type=int, default=RECIPE.max_steps, group=length,
               scope="recipe", recipe_field="max_steps",
               help="Total number of optimizer steps, overriding --epochs; 0 follows --epochs"),
        Option("train_tokens", type=int, default=RECIPE.train_tokens, metavar="N",
               group=length, scope="recipe", recipe_field="train_tokens",
               help="Total length in tokens, --seq-len for each sample, overriding --epochs; 0 "
               "follows --epochs"),
        Option("schedule", default=RECIPE.schedule, choices=SCHEDULES, group=schedule,
               scope="recipe", recipe_field="schedule",
               help="Learning rate after warmup: constant; falling to the end of the run in a "
               "line, as a cosine or as a power; constant with a fall at the end (wsd: warmup, "
               "stable, decay); or on the lines between points"),
        Option("warmup_steps", type=int, default=RECIPE.warmup_steps, group=schedule,
               scope="recipe", recipe_field="warmup_steps",
               help="Optimizer steps of linear learning-rate warmup"),
        Option("warmup_ratio", type=float, default=RECIPE.warmup_ratio, group=schedule,
               scope="recipe", recipe_field="warmup_ratio",
               help="Warmup as a fraction of the run, instead of --warmup-steps"),
        Option("min_lr_ratio", type=float, default=RECIPE.min_lr_ratio, group=schedule,
               scope="recipe", recipe_field="min_lr_ratio",
               help="Learning rate at the end of a schedule that falls, as a fraction of --lr"),
        Option("decay_ratio", type=float, default=RECIPE.decay_ratio, group=schedule,
               scope="recipe", recipe_field="decay_ratio",
               help="Fraction of the run in which wsd falls"),
        Option("decay_steps", type=int, default=RECIPE.decay_steps, group=schedule,
               scope="recipe", recipe_field="decay_steps",
               help="Optimizer steps in which wsd falls; 0 follows --decay-ratio"),
        Option("decay_shape", default=RECIPE.decay_shape, choices=DECAY_SHAPES, group=schedule,
               scope="recipe", recipe_field="decay_shape", help="Shape of wsd's fall"),
        Option("power", type=float, default=RECIPE.power, group=schedule,
               scope="recipe", recipe_field="power", help="Power of the polynomial schedule"),
        Option("cooldown_from", metavar="CHECKPOINT", group=schedule, is_path=True, per_rank=True,
               help="Continue from this checkpoint, at the full learning rate of a constant or wsd "
               "schedule, with a fall to the end of the new run; --decay-steps says how long"),
        Option("lr_point", multiple=True, nargs=2, metavar="WHERE FACTOR", group=schedule,
               scope="recipe", recipe_field="lr_points",
               help="Point of the schedule: a step or a percentage of the run, and the factor "
               "of --lr there, such as 50% 0.3; repeatable, best in a file given with --config"),

        Option("eval_every", type=int, default=RECIPE.eval_every, group="Evaluation and logging",
               scope="recipe", recipe_field="eval_every",
               help="Evaluate every N optimizer steps; 0 evaluates at the end only"),
        Option("log_every", type=int, group="Evaluation and logging",
               default_text="1, or 10 for runs of 10,000 steps or more",
               help="Log metrics every N optimizer steps"),
        Option("verbose", type=bool, default=False, group="Evaluation and logging", scope="call",
               help="Show every logged step on a line of its own"),
        Option("quiet", type=bool, default=False, group="Evaluation and logging", scope="call",
               help="Show nothing but warnings and errors"),
        Option("log_file", metavar="FILE", group="Evaluation and logging", is_path=True,
               scope="call", per_rank=True, repeated=True,
               help="File that gets a line for every logged step and event, with the time; it "
               "only grows"),
        Option("patience", type=int, default=0, group="Evaluation and logging",
               help="End the run after N evaluations without a lower validation loss; 0 never "
               "does"),
        Option("min_delta", type=float, default=0.0, group="Evaluation and logging",
               help="Fall of the validation loss, in nats, that --patience takes as lower"),
        Option("eval_tasks", multiple=True, metavar="NAMES", group="Tasks",
               help="Tasks of lm-evaluation-harness, such as hellaswag,arc_easy, on which the "
               "model is evaluated while it trains; repeatable; needs the extra tasks"),
        Option("eval_tasks_every", type=int, default=0, metavar="N", group="Tasks",
               help="Save, and evaluate them, every N optimizer steps and at the end; 0 does so "
               "at the end only"),
        Option("eval_tasks_path", metavar="DIR", group="Tasks", is_path=True, per_rank=True,
               help="Folder with tasks of your own, in the harness's YAML"),
        Option("eval_tasks_fewshot", type=int, metavar="N", default_text="as the task says",
               group="Tasks",
               help="Solved examples before each question; a task may fix them at 0"),
        Option("eval_tasks_limit", type=float, metavar="N", default_text="all", group="Tasks",
               help="Questions of each task; below 1 a share of them"),
        Option("on_nonfinite", default="stop", metavar="POLICY", group="Bad steps",
               help="What to do where a loss or gradient is not finite: stop; skip:N, which "
               "leaves the step out and stops after N in a row; or rollback:N, which after N in a "
               "row goes back to the last checkpoint and on with the data behind them"),
        Option("on_spike", default="ignore", metavar="POLICY", group="Bad steps",
               help="What to do where the loss is far above those before it: ignore; count; "
               "stop:N, after N in a row; skip:N, which leaves the step out and stops after N in a "
               "row; or rollback:N, which after N in a row goes back to the last checkpoint and on "
               "with the data behind them"),
        Option("spike_sigma", type=float, default=6.0, metavar="K", group="Bad steps",
               help="Standard deviations above the mean of the last losses, from which on a loss "
               "is a spike"),
        Option("spike_window", type=int, default=128, metavar="N", group="Bad steps",
               help="Losses that --on-spike compares with, at least half of them"),
        Option("gradient_noise_scale", type=bool, default=False, group="Evaluation and logging",
               help="Measure the gradient noise scale, the batch size in trained tokens (pairs in "
               "dpo) beyond which more of them help little; needs --grad-accum of at least 2"),
        Option("sample_every", type=int, default=0, group="Samples and trackers",
               help="Generate sample text every N optimizer steps and at the end; 0 never does"),
        Option("sample_prompt", multiple=True, metavar="TEXT", group="Samples and trackers",
               default_text="the beginning of a text",
               help="Prompt of the sample text; repeatable"),
        Option("sample_prompts", metavar="FILE", group="Samples and trackers", is_path=True,
               per_rank=True,
               help='File of such prompts: one on each line, or .jsonl with a field "prompt"'),
        Option("sample_tokens", type=int, default=64, group="Samples and trackers",
               help="Longest sample text, in tokens"),
        Option("track", multiple=True, metavar="NAME", group="Samples and trackers",
               help="Follow the run with tensorboard, wandb, mlflow or trackio; repeatable"),
        Option("track_project", default="hermes", metavar="NAME", group="Samples and trackers",
               help="Project or experiment that --track puts the run into"),
    )  # fmt: skip
