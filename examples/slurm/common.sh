# shellcheck shell=bash
# What the batch scripts of this folder share; sourced by them, never run. All they read from the environment:
#
#   MEAP_HOME              the folder with examples/slurm (default: the folder in which sbatch was called)
#   MEAP_VENV              Python environment with meap   (default: MEAP_HOME/.venv, else the meap on the path)
#   MEAP_CONTAINER_IMAGE   image with meap in it; set: steps run in it through pyxis, and MEAP_VENV is not used
#   MEAP_CONTAINER_MOUNTS  its mounts                     (default: the working folder and MEAP_HOME, at their own paths)
#   MEAP_SRUN_FLAGS        more words for srun, such as --mpi=none
#   MEAP_MAX_RESTARTS      restarts without a newer checkpoint before a training job gives up (default: 3)
#   MEAP_EXIT_MARGIN       seconds before the time limit at which training saves and stops (default: 300, at most a
#                          quarter of the time left); meap train reads it
#
# No `set -e`: exit statuses are what these scripts are about, and each is looked at.
set -uo pipefail

REFUSED=2   # exit status of meap for input that breaks a rule: trying again cannot help

say() { printf 'meap: %s\n' "$*" >&2; }
die() { say "error: $2"; exit "$1"; }

# setting KEY WORD...: the value that the last KEY=VALUE among the words gives.
setting() {
    local key=$1 value='' word
    for word in "${@:2}"; do
        [[ $word == "$key="* ]] && value=${word#*=}
    done
    printf '%s' "$value"
}

# Set LAUNCH, the words that start a program once per task, and what the tasks need to find each other and to end in time.
prepare() {
    [[ -n ${SLURM_JOB_ID:-} ]] || die "$REFUSED" "this is a batch script: sbatch ${0##*/} ..."
    LAUNCH=(srun --kill-on-bad-exit=1)
    if [[ -n ${MEAP_SRUN_FLAGS:-} ]]; then
        local -a more
        read -ra more <<<"$MEAP_SRUN_FLAGS"
        LAUNCH+=("${more[@]}")
    fi
    if [[ -n ${MEAP_CONTAINER_IMAGE:-} ]]; then
        LAUNCH+=(--container-image="$MEAP_CONTAINER_IMAGE" --container-workdir="$PWD")
        LAUNCH+=(--container-mounts="${MEAP_CONTAINER_MOUNTS:-$PWD:$PWD,$MEAP_HOME:$MEAP_HOME}")
    elif [[ -n ${MEAP_VENV:-} || -x $MEAP_HOME/.venv/bin/meap ]]; then
        local venv=${MEAP_VENV:-$MEAP_HOME/.venv}
        [[ -x $venv/bin/meap ]] ||
            die "$REFUSED" "there is no meap in $venv/bin; set MEAP_VENV to the environment that has it"
        PATH=$venv/bin:$PATH
    elif ! command -v meap >/dev/null; then
        die "$REFUSED" "no meap in $MEAP_HOME/.venv nor on the path; set MEAP_VENV or MEAP_CONTAINER_IMAGE"
    fi

    # srun does not take --cpus-per-task over from sbatch since SLURM 22.05, and would give each task one CPU.
    if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi

    # Asked here, once per job: a container has no scontrol, and a thousand ranks should not ask the controller.
    if [[ -z ${MASTER_ADDR:-} ]]; then
        MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        [[ -n $MASTER_ADDR ]] || die 1 "scontrol does not expand the node list $SLURM_JOB_NODELIST"
    fi
    if [[ -z ${SLURM_JOB_END_TIME:-} ]]; then # SLURM sets it since 23.02
        SLURM_JOB_END_TIME=$(SLURM_TIME_FORMAT=%s squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e)
    fi
    export PATH MASTER_ADDR SLURM_JOB_END_TIME
}

# SIGTERM comes from SLURM (cancelled, preempted, requeued, over the time limit), which sends it to the tasks too. USR1 is
# the warning that `--signal=B:USR1@SECONDS` asks for; the tasks then get SIGTERM, at which training saves and stops.
ENDED_BY_SLURM=no
trap 'ENDED_BY_SLURM=yes' TERM
trap 'say "the time limit is near: training saves and stops"; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

# step WORD...: run the words once per task until all have ended, and set STATUS.
step() {
    "${LAUNCH[@]}" "$@" &
    local srun=$!
    while :; do
        wait "$srun"
        STATUS=$?
        kill -0 "$srun" 2>/dev/null || break # else a signal ended the wait, and the tasks still save
    done
    ((STATUS == 0)) || say "the step ended with status $STATUS on $SLURM_JOB_NODELIST;" \
        "\"srun: error: HOST: task RANK\" above names who failed first"
}

# ended_early: whether SLURM ends this job before its time limit.
ended_early() {
    [[ $ENDED_BY_SLURM == yes ]] || return 1
    [[ ! $SLURM_JOB_END_TIME =~ ^[0-9]+$ ]] || (($(date +%s) < SLURM_JOB_END_TIME))
}
