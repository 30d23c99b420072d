"""The commands and their options. What they do is in a file of their own each, imported when it is asked for."""

from __future__ import annotations

import importlib.metadata
import io
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from graphclone.cli.console import interrupted_again, reporting
from graphclone.cli.options import Asked

app = typer.Typer(
    name="graphclone",
    help="Make a smaller (or deeper) transformer out of a trained one, for any architecture.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

PARENT = "a Hugging Face folder, timm:NAME, torchvision:NAME, package.module:factory, a .pt2 file, or a child of `clone`"
Source = Annotated[str, typer.Argument(metavar="PARENT", help=PARENT, show_default=False)]
Arg = Annotated[list[str], typer.Option("--arg", metavar="NAME=VALUE", help="an argument of the parent's factory")]
Input = Annotated[list[str], typer.Option("--input", metavar="SPEC", help="an example input: `input_ids=int64[2,11]:0..256`")]
Checkpoint = Annotated[Path | None, typer.Option(metavar="FILE", help="trained weights for the factory's model")]
Pickle = Annotated[bool, typer.Option("--allow-pickle", help="read pickled checkpoints, which can run any program")]
Remote = Annotated[
    bool, typer.Option("--trust-remote-code", help="run a program that lies in the folder, or a function that it names")
]
Set = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="a field of the child's config, or an argument of its factory")
]
Width = Annotated[
    list[str], typer.Option(metavar="FACTOR=N", help="units to keep, or a share: `residual=96`, `*.mlp.hidden=0.5`")
]
Depth = Annotated[list[str], typer.Option(metavar="N", help="blocks to keep of each stack, a share, or `STACK=N`")]
Like = Annotated[
    Path | None, typer.Option(metavar="CONFIG", help="all sizes as another model has them: its folder or its config.json")
]
Params = Annotated[
    str | None, typer.Option(metavar="NUMBER", help="about so many parameters, with balanced sizes: `60M`, `1.2B`")
]
Debug = Annotated[bool, typer.Option("--debug", help="show the whole traceback of an error")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what is there")]
Seed = Annotated[int, typer.Option(help="of whatever is random")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"graphclone {importlib.metadata.version('graphclone')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="the version")] = False,
) -> None:
    pass


@app.command()
def inspect(
    parent: Source,
    why: Annotated[
        str | None, typer.Option(metavar="FACTOR", help="every place of a factor, and why it is free or frozen")
    ] = None,
    axes: Annotated[str | None, typer.Option(metavar="PATTERN", help="what the dims of these parameters are made of")] = None,
    everything: Annotated[bool, typer.Option("--all", help="one row for each factor, with all of its places")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="all of it as data")] = False,
    arg: Arg = [],  # noqa: B006  (typer copies it)
    input: Input = [],  # noqa: B006
    checkpoint: Checkpoint = None,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
    debug: Debug = False,
) -> None:
    """Show what a child may have fewer of, what stays as it is and why, and the repeated blocks."""
    with reporting(debug):
        from graphclone.cli.inspect import run

        run(Asked(parent, arg, input, checkpoint, allow_pickle, trust_remote_code), why, axes, everything, as_json)


@app.command()
def clone(
    parent: Source,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="CHILD", help="the folder to write")] = None,
    set: Set = [],  # noqa: B006
    width: Width = [],  # noqa: B006
    depth: Depth = [],  # noqa: B006
    like: Like = None,
    params: Params = None,
    scores: Annotated[
        str | None, typer.Option(metavar="KIND", help="how units are ranked: activations (with --data), weights, uniform")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="calibration data: safetensors, one tensor per input, examples along dim 0"),
    ] = None,
    batch: Annotated[int, typer.Option(help="examples per calibration batch")] = 8,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="how the child begins: full (the default with --data), rotated and fitted in closed form; paper, selected",
        ),
    ] = None,
    no_scale: Annotated[bool, typer.Option("--no-scale", help="leave weights as they are, instead of × sqrt(d / d′)")] = False,
    dynamic: Annotated[
        bool,
        typer.Option("--dynamic", help="a rewritten graph that takes other batch and sequence sizes, where the model allows it"),
    ] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="a rewritten graph, even where the parent's class could be built in these sizes")
    ] = False,
    pt2: Annotated[
        bool, typer.Option("--pt2", help="a rewritten graph, and child.pt2 beside it: a program of torch.export, for inference")
    ] = False,
    max_shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="cut the weights of a Hugging Face folder into files of at most `5GB`")
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="print the plan and write no child (with -o FILE.json, the plan)")
    ] = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    arg: Arg = [],  # noqa: B006
    input: Input = [],  # noqa: B006
    checkpoint: Checkpoint = None,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
    debug: Debug = False,
) -> None:
    """Make a child: of the parent's own class, with `--set`, `--like`, or where settings for `--width` and `--depth` are found; else a
    rewritten graph."""
    with reporting(debug):
        from graphclone.cli.clone import run
        from graphclone.cli.wanted import Wanted

        asked = Asked(parent, arg, input, checkpoint, allow_pickle, trust_remote_code)
        wanted = Wanted(
            output,
            set,
            width,
            depth,
            scores,
            data,
            batch,
            not no_scale,
            plan_only,
            overwrite,
            seed,
            dynamic,
            graph or dynamic or pt2,
            like,
            params,
            pt2,
            recipe,
            max_shard_size,
        )
        run(asked, wanted)


@app.command()
def race(
    parent: Source,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="the folder to write", show_default=False)],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="what is learnt from: safetensors, one tensor per input (labels too), examples along dim 0",
            show_default=False,
        ),
    ],
    held_out: Annotated[
        Path | None,
        typer.Option("--held-out", metavar="FILE", help="what the loss is measured on; else the last eighth of --data"),
    ] = None,
    arm: Annotated[list[str], typer.Option(metavar="NAME", help="random, paper, full; all by default")] = [],  # noqa: B006
    set: Set = [],  # noqa: B006
    width: Width = [],  # noqa: B006
    depth: Depth = [],  # noqa: B006
    like: Like = None,
    params: Params = None,
    lr: Annotated[list[float], typer.Option(metavar="RATE", help="peak learning rates; each arm is judged at its best one")] = [],  # noqa: B006
    decay: Annotated[float, typer.Option(metavar="RATE", help="weight decay")] = 0.1,
    steps: Annotated[int, typer.Option(metavar="N", help="training steps of each run")] = 200,
    batch: Annotated[int, typer.Option(metavar="N", help="examples per batch")] = 16,
    calibration: Annotated[int, typer.Option(metavar="N", help="batches that children are made on")] = 8,
    seeds: Annotated[int, typer.Option(metavar="N", help="runs of each kind, on seeds from --seed on")] = 1,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    arg: Arg = [],  # noqa: B006
    input: Input = [],  # noqa: B006
    checkpoint: Checkpoint = None,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
    debug: Debug = False,
) -> None:
    """Train children of one size side by side, begun in several ways: which way is best for this parent and this data. After Ctrl-C or a
    crash the same command goes on: runs that are done are kept beside the folder."""
    with reporting(debug):
        from graphclone.cli.race import ARMS, Course, run
        from graphclone.cli.wanted import Wanted

        asked = Asked(parent, arg, input, checkpoint, allow_pickle, trust_remote_code)
        wanted = Wanted(output, set, width, depth, None, data, batch, True, False, overwrite, seed, False, False, like, params)
        rates, every = lr or [5e-4, 1e-3, 2e-3], range(seed, seed + seeds)
        run(asked, wanted, Course(arm or list(ARMS), rates, decay, steps, held_out, calibration, every))


@app.command()
def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a child of `clone`, or a parent by itself", show_default=False)],
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="PARENT", help="the parent that the child was made of")
    ] = None,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic",
            help="repeat the oracles at other input sizes (always done for a `--dynamic` child)",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the figures as data")] = False,
    seed: Seed = 0,
    arg: Arg = [],  # noqa: B006
    input: Input = [],  # noqa: B006
    checkpoint: Checkpoint = None,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
    debug: Debug = False,
) -> None:
    """Run the oracles on a parent, or check that a fresh child is what its plan makes of its parent. Exit status 1 if one fails."""
    with reporting(debug):
        from graphclone.cli.verify import run

        run(
            model,
            Asked(parent or model, arg, input, checkpoint, allow_pickle, trust_remote_code),
            parent is not None,
            as_json,
            seed,
            dynamic or None,
        )


@app.command()
def export(
    child: Annotated[str, typer.Argument(metavar="CHILD", help=PARENT, show_default=False)],
    onnx: Annotated[Path, typer.Option("--onnx", metavar="FILE", help="the ONNX file to write", show_default=False)],
    opset: Annotated[
        int | None, typer.Option(metavar="N", help="the opset of its operators; the exporter's own by default")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="half precision; inputs and outputs keep their types")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights (ONNX Runtime's dynamic quantisation)")] = False,
    with_past: Annotated[
        bool, typer.Option("--with-past", help="keys and values as inputs and outputs, to decode text step by step")
    ] = False,
    bench: Annotated[bool, typer.Option("--bench", help="measure a run in PyTorch and in ONNX Runtime, here")] = False,
    parent: Annotated[str | None, typer.Option("--parent", metavar="PARENT", help="with --bench: measured beside it")] = None,
    overwrite: Overwrite = False,
    arg: Arg = [],  # noqa: B006
    input: Input = [],  # noqa: B006
    checkpoint: Checkpoint = None,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
    debug: Debug = False,
) -> None:
    """Write a model as ONNX, and compare ONNX Runtime's outputs with PyTorch's."""
    with reporting(debug):
        from graphclone.cli.export import precision, run
        from graphclone.export.onnx import Wanted

        wanted = Wanted(opset, precision(fp16, int8), with_past, bench)
        run(Asked(child, arg, input, checkpoint, allow_pickle, trust_remote_code), onnx, wanted, parent, overwrite)


@app.command()
def demo(
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="graphclone-demo by default")] = None,
    task: Annotated[str, typer.Option(help="text or vision")] = "text",
    quick: Annotated[bool, typer.Option("--quick", help="everything, in four training steps")] = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Clone an embedded parent, check the clone, and race it against a randomly initialised twin: about two minutes."""
    with reporting(debug):
        from graphclone.demo.run import run_demo

        raise typer.Exit(run_demo(output, task=task, quick=quick, seed=seed, overwrite=overwrite))


def main() -> None:
    """The `graphclone` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where a terminal has no → or ✓, it shows ? instead of a traceback
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is half-written is taken away
    sys.unraisablehook = interrupted_again
    app(prog_name="graphclone")
