#!/bin/bash
#SBATCH --job-name=lr-tiny-train
#SBATCH --output=/runs/tiny/jobs/train/log.txt
#SBATCH --open-mode=append
#SBATCH --account=research
#SBATCH --partition=batch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --time=3-00:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --requeue
#SBATCH --exclusive
#SBATCH --qos=high
# To start this job by hand, in this folder: sbatch job.sh
set -u
job=/runs/tiny/jobs/train
after=(/runs/tiny/jobs/pack /runs/tiny/jobs/base)

attempt=${SLURM_JOB_ID:-here-$$}.${SLURM_RESTART_COUNT:-0}
folder=$job
put() { printf '%s\n' "$2" > "$folder/.$1.$$.tmp" && mv -f "$folder/.$1.$$.tmp" "$folder/$1"; }
exit_of() { cat "$1/exit" 2> /dev/null; }
begin() { put attempt "$attempt"; rm -f "$folder/exit"; }
# Only the newest attempt says how it ended: on a node that was lost an older one may live on.
end() { if [ "$(cat "$folder/attempt")" = "$attempt" ]; then put exit "$1"; fi; }
say() { echo "longrun: $*" >&2; }

if [ "$(exit_of "$job")" = 0 ]; then say "$job is done"; exit 0; fi
# A later job of a chain goes on where the one before it stopped, unless that one failed.
if [ "${1:-}" = continued ]; then
  case "$(exit_of "$job")" in '' | 75) ;; *) say "an earlier job failed"; exit 1 ;; esac
fi
id=${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-}}
if [ -n "$id" ] && ! grep -qx "$id" "$job/ids" 2> /dev/null; then
  echo "$id" >> "$job/ids"
fi
begin
# What the scheduler was told is an optimisation; the exit files are the truth. A network file
# system may show one late.
for before in ${after[@]+"${after[@]}"}; do
  for _ in $(seq "${LONGRUN_FILE_SECONDS:-30}"); do
    if [ -e "$before/exit" ]; then break; fi
    sleep 1
  done
  if [ "$(exit_of "$before")" != 0 ]; then
    say "cancelled: $before did not finish"
    put exit 213
    exit 213
  fi
done

for name in HF_TOKEN; do
  if [ -z "${!name:-}" ]; then say "$name is not set"; put exit 2; exit 2; fi
done

# What a shell, a job or a starter around this one says of itself is not meant for this job.
unset NNODES NODE_RANK MASTER_ADDR MASTER_PORT RANK WORLD_SIZE LOCAL_RANK
unset LONGRUN_PART LONGRUN_NUM_PARTS SLURM_EXPORT_ENV
export LONGRUN_LOCK_SECONDS=600
# Where the nodes meet. Another attempt meets at another port.
export NNODES=2
export MASTER_PORT=$((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0}) % 12000))
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_ADDR=$(scontrol show node "$first_node" | grep -o "NodeAddr=[^ ]*" | cut -d= -f2)
export MASTER_ADDR

warned='' stopped='' child=''
# Slurm itself ends the command at a SIGTERM; srun would do so at once, but passes SIGUSR1 on.
on_warning() { signal=1 warned=1; kill -USR1 "$child" 2> /dev/null; }
on_stop() { signal=1 stopped=1; kill -USR1 "$child" 2> /dev/null; }
trap on_warning USR1
trap on_stop TERM INT
run() {
  rm -rf "$folder/nodes"
  mkdir "$folder/nodes"
  (
    export LONGRUN_FOLDER="$folder"
    export HF_HOME='/data/hf home'
    export PYTHONPATH=/runs/code/0123
    export LONGRUN_PROGRESS=/runs/tiny/jobs/train/progress.json
    exec srun --nodes=2 --ntasks=2 --kill-on-bad-exit=1 --export=ALL --cpus-per-task=64 bash /runs/tiny/jobs/train/command.sh < /dev/null
  ) &
  child=$!
  while :; do  # a signal ends `wait`, not the command
    signal=''
    wait "$child"
    code=$?
    if [ -z "$signal" ]; then break; fi
  done
  # srun gives the highest code, that of nodes which it ended because another one had failed.
  if [ "$code" -gt 128 ] && [ -z "$warned$stopped" ]; then
    first=$(cat "$folder/nodes"/* | sort -n | head -n 1)
    code=${first:-$code}
  fi
}
# Sets `code` to that of a job that can go on, or puts it back into the queue.
go_on() {
  why=''
  if [ "$code" -eq 75 ]; then why="it stopped and can go on"; fi
  if [ "$code" -ne 0 ] && [ -n "$warned" ]; then why="time limit"; fi
  if [ "$code" -ne 0 ] && [ "$(find "$folder/nodes" -type f | wc -l)" -lt 2 ]; then
    why="it did not start on every node"
  fi
  if [ -z "$why" ] || [ -n "$stopped" ]; then return; fi
  if [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
    say "$why: back into the queue"
    trap - TERM
    if scontrol requeue "$SLURM_JOB_ID"; then sleep 120; fi
  fi
  say "$why"
  code=75
}

run
go_on
end "$code"
exit "$code"
--- command.sh
#!/bin/bash
# What job.sh starts, once on every node.
export NODE_RANK="${NODE_RANK:-$SLURM_NODEID}"
touch "$LONGRUN_FOLDER/nodes/${NODE_RANK:-0}"
# A node that fails by itself says so; one that is ended for it does not.
failed() { if [ "$1" -gt 0 ] && [ "$1" -lt 128 ]; then echo "$1"; fi; }
trap 'failed $? > "$LONGRUN_FOLDER/nodes/${NODE_RANK:-0}"' EXIT
trap : USR1  # a warning of the time limit is for the command, not for bash
cd /home/me || exit 2
exec python3 -m longrun train /runs/tiny/jobs/train/config.yaml
