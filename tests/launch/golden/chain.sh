#!/bin/bash
#SBATCH --job-name=tiny-train
#SBATCH --output=/runs/tiny/jobs/train/log.txt
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=0-00:05:00
#SBATCH --signal=B:USR1@75
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --no-requeue
# To start this job by hand, in this folder: sbatch job.sh
set -u
job=/runs/tiny/jobs/train
after=()

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

# What a shell, a job or a starter around this one says of itself is not meant for this job.
unset NNODES NODE_RANK MASTER_ADDR MASTER_PORT RANK WORLD_SIZE LOCAL_RANK
unset LONGRUN_PART LONGRUN_NUM_PARTS SLURM_EXPORT_ENV
export LONGRUN_LOCK_SECONDS=600

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
    export LONGRUN_PROGRESS=/runs/tiny/jobs/train/progress.json
    exec srun --nodes=1 --ntasks=1 --kill-on-bad-exit=1 --export=ALL bash /runs/tiny/jobs/train/command.sh < /dev/null
  ) &
  child=$!
  while :; do  # a signal ends `wait`, not the command
    signal=''
    wait "$child"
    code=$?
    if [ -z "$signal" ]; then break; fi
  done
}
# Sets `code` to that of a job that can go on, or puts it back into the queue.
go_on() {
  why=''
  if [ "$code" -eq 75 ]; then why="it stopped and can go on"; fi
  if [ "$code" -ne 0 ] && [ -n "$warned" ]; then why="time limit"; fi
  if [ "$code" -ne 0 ] && [ "$(find "$folder/nodes" -type f | wc -l)" -lt 1 ]; then
    why="it did not start on every node"
  fi
  if [ -z "$why" ] || [ -n "$stopped" ]; then return; fi
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
touch "$LONGRUN_FOLDER/nodes/${NODE_RANK:-0}"
trap : USR1  # a warning of the time limit is for the command, not for bash
cd /home/me || exit 2
exec python3 -m longrun train /runs/tiny/jobs/train/config.yaml
