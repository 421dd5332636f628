#!/bin/bash
# One run on several nodes, a rank for each GPU that is asked for here:
#
#     sbatch several_nodes.sh imdb/bert-base-uncased adaptive
#
# A torchrun on each node meets the others at the first one. At the time limit the run is saved, and
# the job queued again; then it goes on. The run's folder, runs/ where the job is submitted, must be
# on a disk that all nodes share. Lines for your cluster (a partition, an account, the network, the
# environment that the toolkit is installed in) go where they are marked.
#SBATCH --job-name=toolkit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# your cluster: #SBATCH --partition=... --account=...

# your cluster: source .venv/bin/activate
# your cluster: export TOOLKIT_DATA=... HF_HOME=... HF_HUB_OFFLINE=1

export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # or srun gives its task one core
# your cluster: export NCCL_SOCKET_IFNAME=... GLOO_SOCKET_IFNAME=...

# SLURM tells this script alone of the time limit, and srun tells all its processes. A job that you
# cancel is not queued again: that comes as another signal, to the processes themselves.
limit=
step=
trap 'limit=reached; [ -z "$step" ] || kill -USR1 "$step"' USR1

# torchrun passes these signals on, and waits so many seconds for the checkpoint.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240

# It hides how the run ended, so a run that was saved to go on leaves this file.
export TOOLKIT_STOPPED=$PWD/toolkit-stopped-$SLURM_JOB_ID
rm -f "$TOOLKIT_STOPPED"

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs on a node do not meet

srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:$port" \
    -m toolkit.train "$@" &
step=$!

wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do # the signal ended that wait
    wait "$step"
    code=$?
done

if [ -n "$limit" ] && [ -e "$TOOLKIT_STOPPED" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
rm -f "$TOOLKIT_STOPPED"
exit "$code"
