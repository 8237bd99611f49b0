"""`meap init`: look at a folder, and write a recipe and a script for what is in it."""

import argparse
from pathlib import Path

HELP = """Look at a folder and write a recipe and a script for what is in it. Asks nothing, runs nothing.

  meap init                          this folder: a model, a tokenizer, texts or conversations; GPUs and SLURM of the machine
  meap init my_project --out mine    writes mine/recipe.yaml and mine/run.sh
  bash meap/run.sh
  meap init --examples               ./examples: the recipes and sweeps of the paper, batch scripts for SLURM

A model (a Hugging Face folder or a .gguf file) and conversations become a fine-tuning run, a model and text continued
pre-training, text alone a small model from the beginning. Every line that is written says what it is for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="DIR", help="default: this folder")
    parser.add_argument("--model", type=Path, metavar="PATH", help="Hugging Face folder or .gguf file")
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], metavar="PATH", help="files or folders (default: all)"
    )
    parser.add_argument("--tokenizer", type=Path, metavar="PATH", help="default: the model's, or the only one")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("meap"),
        metavar="DIR",
        help="what is written and made, below DIR (default: meap)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--overwrite", action="store_true", help="replace an earlier recipe.yaml and run.sh")
    what.add_argument("--examples", action="store_true", help="copy the project's own recipes to DIR/examples instead")


def run(args: argparse.Namespace) -> int:
    """Look, write, and print what was found and what comes next."""
    from meap_megatron.atomic import disk_errors, replace_text
    from meap_megatron.errors import UserError, counted
    from meap_megatron.starter import written
    from meap_megatron.starter.found import look, relative

    folder: Path = args.folder
    if args.examples:
        return copy_examples(folder)
    out = folder / args.out
    inside = relative(out, folder)
    if Path(inside).is_absolute() or inside == ".":
        raise UserError(
            f"--out {args.out} is not below {folder.resolve()}, and the script there runs in {folder}",
            fix="name a folder below it",
        )
    recipe, script = out / "recipe.yaml", out / "run.sh"
    if not args.overwrite and (there := [path for path in (recipe, script) if path.exists()]):
        raise UserError(f"{there[0]} exists already", fix="choose another --out, or say --overwrite")
    found = look(folder, model=args.model, tokenizer=args.tokenizer, data=args.data, out=out)
    text = written.script(found, start=folder, out=inside)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        replace_text(recipe, written.recipe(found, out=inside))
        replace_text(script, text)
        script.chmod(0o755)
    data = found.data
    print(f"model:      {found.model or 'none: a small one is trained from the beginning'}")
    if found.model is None:
        print(f"tokenizer:  {found.tokenizer or 'none: one is trained'}")
    print(f"data:       {data.kind}: {', '.join(map(str, data.paths))} ({data.size / 1e6:,.1f} MB)")
    if found.beside:
        print(f"left out:   {', '.join(map(str, found.beside))} (choose with --data)")
    print(f"machine:    {counted(found.gpus, 'GPU') if found.gpus else 'no GPU'}{', SLURM' * found.slurm}")
    print(f"written:    {recipe} and {script}\nnext:       bash {script}")
    print(f"then:       {written.last_command(found, inside)}")
    return 0


def copy_examples(folder: Path) -> int:
    """Copy the project's own recipes, sweeps and batch scripts to FOLDER/examples, where a user may change them.

    Raises:
        UserError: something is there already.
    """
    from meap_megatron.atomic import replace_folder
    from meap_megatron.errors import UserError
    from meap_megatron.shipped import HOME

    out = folder / "examples"
    if out.exists():
        raise UserError(f"{out} exists already", fix="name another folder: meap init --examples DIR")
    ours = HOME / "examples"
    with replace_folder(out) as new:
        for path in ours.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                copy = new / path.relative_to(ours)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())  # without the modes: an installation may be read-only
    print(f"written:    {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    print(
        f"next:       meap train {out / 'recipes' / 'tiny_cpu_meap.yaml'} data_path=PREFIX save=FOLDER    (on a CPU)"
    )
    return 0
