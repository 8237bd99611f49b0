# shellcheck shell=bash
# How a training job continues until it is finished; sourced by pretrain.sbatch and sft.sbatch, after common.sh.
#
# What is known of a run is in its `save` folder: the newest finished checkpoint (Megatron's tracker), the last step
# (metrics.jsonl), and restarts.txt, in which this file counts the restarts since the newest checkpoint last moved.

# Megatron's status for a value that is not finite when a step is repeated too (16 the first time, to repeat it elsewhere).
readonly NOT_FINITE_AGAIN=17

# newest_checkpoint SAVE: iteration of the newest finished checkpoint, 0 without one.
newest_checkpoint() {
    local iteration=''
    [[ -r $1/latest_checkpointed_iteration.txt ]] && read -r iteration <"$1/latest_checkpointed_iteration.txt"
    [[ $iteration =~ ^[0-9]+$ ]] && printf '%s' "$iteration" || printf 0
}

# last_step SAVE: the steps that the run shall take, as its newest start wrote them down; nothing if it never began.
last_step() {
    [[ -r $1/metrics.jsonl ]] || return 0
    sed -n 's/^{"event": "start".*"train_iters": \([0-9]*\).*/\1/p' "$1/metrics.jsonl" | tail -n 1
}

# count_restarts SAVE ITERATION: print how many restarts in a row, this one included, began at the checkpoint of ITERATION.
# A job that was submitted again counts from zero.
count_restarts() {
    local count=0 at=''
    if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 && -r $1/restarts.txt ]]; then
        read -r count at <"$1/restarts.txt"
        if [[ $at == "$2" ]]; then count=$((count + 1)); else count=0; fi
    fi
    if ! { mkdir -p "$1" && printf '%s %s\n' "$count" "$2" >"$1/restarts.tmp" &&
        mv "$1/restarts.tmp" "$1/restarts.txt"; }; then
        die 1 "cannot write $1/restarts.txt"
    fi
    printf '%s' "$count"
}

# give_up SAVE ITERATION RESTARTS: stop a job that does not get on.
give_up() {
    die 1 "no progress in $3 restart(s): the newest checkpoint of $1 is still that of step $2; see $1/logs, then submit again"
}

# train_until_done RECIPE KEY=VALUE...: the words of `meap train`. Ends the job, or has SLURM start it again.
train_until_done() {
    local save began restarts now last
    local -i most=${MEAP_MAX_RESTARTS:-3}
    [[ $# -gt 0 ]] ||
        die "$REFUSED" "which recipe? sbatch SCRIPT RECIPE.yaml save=FOLDER [key=value ...], the words of meap train"
    save=$(setting save "$@")
    [[ -n $save ]] ||
        die "$REFUSED" "say save=FOLDER, on a file system that all nodes share: it contains what a restart continues from"
    prepare

    began=$(newest_checkpoint "$save")
    restarts=$(count_restarts "$save" "$began") || exit 1
    ((restarts <= most)) || give_up "$save" "$began" "$most"
    local -i start=$((${SLURM_RESTART_COUNT:-0} + 1))
    say "job $SLURM_JOB_ID, start $start, on $SLURM_JOB_NODELIST: continues from step $began of $save"

    step meap train "$@"

    now=$(newest_checkpoint "$save")
    last=$(last_step "$save")
    if ((STATUS == 0)) && [[ -n $last ]] && ((now >= last)); then
        say "finished: $save is at step $now of $last"
        exit 0
    fi
    ((STATUS != REFUSED)) || die "$REFUSED" "meap train refuses its input; trying again would not help"
    ((STATUS != NOT_FINITE_AGAIN)) ||
        die 1 "a loss or gradient of $save is not finite, a second time at the same step; lower lr, or see $save/logs"
    if ended_early; then
        # Cancelled: that is the user's wish. Preempted or requeued: SLURM starts the job again by itself.
        die 143 "SLURM ends this job; $save is at step $now of ${last:-?}"
    fi
    ((now > began || restarts < most)) || give_up "$save" "$now" "$most"
    say "not finished: $save is at step $now of ${last:-?}; asking SLURM to start job $SLURM_JOB_ID again"
    scontrol requeue "$SLURM_JOB_ID" || die 1 "SLURM does not requeue job $SLURM_JOB_ID; submit it again to continue"
    sleep 60 # SLURM ends this script before that
}
