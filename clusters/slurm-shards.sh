#!/bin/bash
# A run in eight shards on SLURM:
#   sbatch slurm-shards.sh grid.yaml
#   sbatch --dependency=afterok:JOB --wrap "rbl merge runs/NAME-shard-*-of-8 --out runs/NAME"
# A task that is preempted, killed or out of time goes on where it was: requeue it, or submit the same ids again with
# the number of shards, such as --array=3,5 with SHARD_COUNT=8.
#SBATCH --job-name=rbl-shards
#SBATCH --array=1-8
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%a.log
# On GPUs: #SBATCH --gpus-per-task=1, and --device cuda below.
set -eu
shard=auto
if [ -n "${SHARD_COUNT:-}" ]; then
  shard="$SLURM_ARRAY_TASK_ID/$SHARD_COUNT"
fi
# exec: the signal that announces the end reaches rbl, which stops after what is committed.
exec rbl run "$@" --shard "$shard" --workers "${SLURM_CPUS_PER_TASK:-1}"
