"""A rehearsal as text. The JSON report is the dictionaries themselves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meap_megatron.errors import counted
from meap_megatron.formats import bytes_text
from meap_megatron.rehearsal.job import RehearsedJob


def spans(numbers: Sequence[int]) -> str:
    """Return ascending numbers with runs joined: [0, 1, 2, 6] is "0-2, 6"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] + 1 == number:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def short(path: str) -> str:
    """Return a path relative to the current folder if it lies in it."""
    inside = Path(path).absolute().is_relative_to(Path.cwd())
    return str(Path(path).absolute().relative_to(Path.cwd())) if inside else path


def of_job(job: RehearsedJob) -> list[str]:
    """Return the lines above the ranks."""
    target = "processes on CPUs" if job.device == "cpu" else "GPUs"
    return [f"{job.recipe.path} on {job.layout.world:,} {target}: {job.layout}"]


def of_rank(found: dict[str, Any]) -> list[str]:
    """Return the lines for one rank; `found` is what `shapes.rehearse` returns."""
    place = found["place"]
    where = "  ".join(f"{name} {at['rank']} of {at['size']:,}" for name, at in place.items() if at["size"] > 1)
    lines = [f"rank {found['rank']:<7,} {where or 'alone'}", f"  model      {model_line(found['model'])}"]
    memory = found["memory"]
    parts = " + ".join(f"{bytes_text(memory[name])} {name}" for name in ("weights", "gradients", "optimizer"))
    lines += [f"  memory     {bytes_text(sum(memory.values()))} before activations: {parts}", *data_lines(found)]
    if (saves := found["saves"]) is not None:
        text = f"about {bytes_text(saves['bytes_of_rank'])} of every checkpoint, in {saves['files_of_rank']}"
        lines.append(f"  writes     {text if saves['bytes_of_rank'] else 'nothing'}")
    return lines


def model_line(model: dict[str, Any]) -> str:
    """Return what a rank holds of the model."""
    layers = [layer for part in model["layers"] for layer in part]
    held = [f"layers {spans(layers)}"] if layers else []
    held += ["embedding"] if model["embedding"] else []
    held += ["head"] if model["head"] else []
    chunks = f" in {len(model['layers'])} interleaved parts" if len(model["layers"]) > 1 else ""
    return f"{', '.join(held) or 'nothing'}{chunks}: {model['parameters']:,} parameters, {model['type']}"


def data_lines(found: dict[str, Any]) -> list[str]:
    """Return what a rank reads."""
    data, step = found["data"], found["begins_with"]["step"] + 1
    batches = " | ".join(spans(batch) for batch in data["first_step"])
    more = " | ..." if data["micro_batches"] > len(data["first_step"]) else ""
    which = f"samples {batches}{more}" if batches else "shuffled samples"
    text = f"{which} in step {step:,}, {counted(data['micro_batches'], 'micro-batch')}"
    if not data["needs"]:
        return [f"  data       none: a middle stage, which gets activations of {text}"]
    if not data["reads"]:
        return [f"  data       {text}, which rank {data['reader']:,} reads and hands on"]
    inputs = data["shape"][0] * data["shape"][1]
    first = f"first one read: {data['shape'][0]} x {data['shape'][1]:,} tokens, {data['masked'] / inputs:.1%} masked"
    trained = "" if data["trained"] == 1 else f", {data['trained']:.1%} trained"
    return [f"  data       reads {text}", f"             {first}{trained}"]


def of_run(found: dict[str, Any]) -> list[str]:
    """Return the lines that all ranks share, from what one of them found."""
    lines = []
    if found["parameters_of_model"] is not None:
        lines.append(f"model        {found['parameters_of_model']:,} parameters")
    if found["index"] is not None:
        for source in found["index"]["sources"]:
            samples = f"{counted(source['samples'], 'sample')}, {source['epochs']:.2f} epochs"
            lines.append(f"data         {source['split']}: {samples} of {source['prefix']}")
        lines.append(f"             index in {short(found['index']['path'])}")
    begins = found["begins_with"]
    if begins["checkpoint"] is None:
        lines.append("begins       with random weights")
    else:
        fits = begins["tensors_compared"]
        how = f"{counted(fits, 'tensor')} compared, all fit" if fits is not None else "not compared with the model"
        where = f"after step {begins['step']:,}, from" if begins["step"] else "with the weights of"
        lines.append(f"begins       {where} {short(begins['checkpoint'])} ({how})")
    if (saves := found["saves"]) is not None:
        each = bytes_text(saves["bytes"]) if saves["bytes"] else "a checkpoint"
        kept = f" and {saves['keep']} are kept" if saves["keep"] else ""
        times = counted(saves["checkpoints"], "time")
        lines += [
            f"saves        {each} every {counted(saves['every'], 'step')}, {times} to step {found['steps']:,}{kept}; "
            f"{bytes_text(saves['free_bytes'])} free",
            f"             first {saves['first']}",
        ]
    return lines


def warnings(found: dict[str, Any]) -> list[str]:
    """Return what need not stop the job but may: a disk too small for its checkpoints."""
    saves = found["saves"]
    if saves is None or not saves["bytes"]:
        return []
    # A new checkpoint is complete before an old one is removed.
    held = min(saves["checkpoints"], saves["keep"] + 1 if saves["keep"] else saves["checkpoints"])
    if saves["bytes"] * held <= saves["free_bytes"]:
        return []
    fitting = saves["free_bytes"] // saves["bytes"]
    return [
        f"{saves['folder']} has {bytes_text(saves['free_bytes'])} free here, enough for {fitting:,} of the {held:,} "
        f"checkpoints of {bytes_text(saves['bytes'])} that are kept at a time; meap_keep_checkpoints=N, at least 2, "
        "removes old ones"
    ]


def of_steps(found: dict[str, Any]) -> list[str]:
    """Return the line for one rank's iterations."""
    batches = f"{counted(found['micro_batches'], 'micro-batch')} forward and backward"
    steps = counted(found["steps"], "step")
    return [f"rank {found['rank']:<7,} {steps} of the trainer, {batches} ({found['seconds']:.1f} s)"]


def of_everyone(found: dict[str, Any]) -> list[str]:
    """Return the lines for the data of all ranks."""
    steps = f"steps 1 to {found['steps']:,} of {found['steps_of_run']:,}"
    lines = [
        f"{counted(found['data_parallel'], 'data-parallel rank')}, {counted(found['samples'], 'sample')} ({steps})",
        "  each sample   read once, by one rank, in the step in which one process reads it",
        f"  its contents  equal to one process bit for bit: tokens, masks, labels, loss ({found['masked']:.2%} masked)",
    ]
    if (epochs := found["epochs_checked"]) is not None:
        lines.append(
            f"  whole run     every token once in each of its epochs ({epochs:.2f} in the index, all checked)"
        )
    return lines
