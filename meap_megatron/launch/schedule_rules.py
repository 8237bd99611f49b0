"""How long a run trains, its learning rate and weight decay: settings that contradict each other; for `rules`."""

from collections.abc import Iterator

from meap_megatron.errors import UserError
from meap_megatron.launch.named_settings import Settings


def findings(settings: Settings) -> Iterator[UserError]:
    """Yield what is wrong with the length of a run and, where it trains, with its schedule."""
    yield from of_length(settings)
    if not settings.on("skip_train"):
        yield from of_schedule(settings)


def of_length(settings: Settings) -> Iterator[UserError]:
    """Yield what is wrong with the length of the run: steps, samples or epochs, one of them and its relatives."""
    units = [name for name in ("train_iters", "train_samples", "meap_epochs") if settings.get(name) is not None]
    if len(units) > 1:
        both = " and ".join(f"{name}={settings.get(name)}" for name in units)
        yield UserError(
            f"{settings.where(units[-1])}{both} are both given",
            fix=f"keep one ({units[0]}=null drops that of a recipe)",
        )
        return
    if settings.on("skip_train"):
        return
    if not units:
        yield UserError("the length of the run is not given", fix="set train_iters, train_samples or meap_epochs")
        return
    by_samples = units == ["train_samples"]
    wrong, right = ("iters", "samples") if by_samples else ("samples", "iters")
    for name in ("lr_decay", "lr_warmup", "lr_wsd_decay"):
        if settings.number(f"{name}_{wrong}"):
            yield UserError(
                f"{settings.quoted(f'{name}_{wrong}')} counts {'steps' if by_samples else 'samples'}, and the length of "
                f"this run is {units[0]}={settings.get(units[0])}",
                fix=f"give {name}_{right} instead",
            )
    samples, batch = settings.whole("train_samples"), settings.whole("global_batch_size")
    if by_samples and samples and batch and samples < batch:
        yield UserError(
            f"{settings.quoted('train_samples')} is less than one step of global_batch_size={batch}", fix="raise it"
        )


def of_schedule(settings: Settings) -> Iterator[UserError]:
    """Yield what is wrong with the learning rate and the weight decay over the run."""
    lr = settings.number("lr")
    if lr is None and settings.get("lr") is None:
        yield UserError("lr, the highest learning rate, is not given", fix="set lr, for example lr=3.0e-4")
    for name in ("min_lr", "lr_warmup_init"):
        value = settings.number(name)
        if lr is not None and value is not None and value > lr:
            yield UserError(f"{settings.quoted(name)} is above lr={settings.get('lr')}", fix="lower it, or raise lr")
    if settings.get("lr_warmup_fraction") is not None:
        for name in ("lr_warmup_iters", "lr_warmup_samples"):
            if settings.number(name):
                fraction = settings.get("lr_warmup_fraction")
                yield UserError(
                    f"{settings.quoted(name)} and lr_warmup_fraction={fraction} are both given", fix="keep one"
                )
    else:
        yield from of_warmup(settings)
    if settings.get("lr_decay_style") == "WSD" and not (settings.has("lr_wsd_decay_iters", "lr_wsd_decay_samples")):
        yield UserError(
            f"{settings.quoted('lr_decay_style')} needs lr_wsd_decay_iters, the steps of its last, falling part",
            fix="set lr_wsd_decay_iters",
        )
    if settings.on("override_opt_param_scheduler") and settings.on("use_checkpoint_opt_param_scheduler"):
        yield UserError(
            f"{settings.quoted('override_opt_param_scheduler')} takes the schedule of the settings and "
            "use_checkpoint_opt_param_scheduler that of the checkpoint",
            fix="keep one",
        )
    yield from of_weight_decay(settings)


def of_warmup(settings: Settings) -> Iterator[UserError]:
    """Yield a warm-up that is not shorter than the decay."""
    for warmup, decay, length in (
        ("lr_warmup_iters", "lr_decay_iters", "train_iters"),
        ("lr_warmup_samples", "lr_decay_samples", "train_samples"),
    ):
        end = decay if settings.whole(decay) else length
        steps, last = settings.number(warmup), settings.whole(end)
        if steps and last and steps >= last:
            yield UserError(
                f"{settings.quoted(warmup)} must be below {end}={last}, at which the learning rate has fallen",
                fix="shorten the warm-up, or use lr_warmup_fraction=0.1",
            )


def of_weight_decay(settings: Settings) -> Iterator[UserError]:
    """Yield a weight decay that changes without both ends, or has ends and stays."""
    ends = ("start_weight_decay", "end_weight_decay")
    if settings.get("weight_decay_incr_style") in (None, "constant"):
        for name in ends:
            if settings.get(name) is not None:
                yield UserError(
                    f"{settings.quoted(name)} needs weight_decay_incr_style=linear or cosine",
                    fix="set it, or give weight_decay",
                )
        return
    missing = [name for name in ends if settings.get(name) is None]
    if missing:
        yield UserError(
            f"{settings.quoted('weight_decay_incr_style')} needs {' and '.join(missing)}", fix="give both ends"
        )
        return
    start, end = (settings.number(name, 0.0) or 0.0 for name in ends)
    if start > end:
        yield UserError(
            f"{settings.quoted('start_weight_decay')} is above end_weight_decay={settings.get('end_weight_decay')}",
            fix="swap them: weight decay can only rise",
        )
