#!/bin/bash
# To start this job by hand, in this folder: bash job.sh
set -u
job=/runs/tiny/jobs/train
after=()

attempt=here-$$
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
unset LONGRUN_PART LONGRUN_NUM_PARTS
# Where the nodes meet. Another attempt meets at another port.
export NNODES=2
export MASTER_ADDR=127.0.0.1
export MASTER_PORT=$((20000 + $$ % 12000))

warned='' stopped='' child=''
on_warning() { signal=1 warned=1; kill -USR1 "$child" 2> /dev/null; }
on_stop() { signal=1 stopped=1; kill -TERM "$child" 2> /dev/null; }
trap on_warning USR1
trap on_stop TERM INT
run() {
  rm -rf "$folder/nodes"
  mkdir "$folder/nodes"
  (
    export LONGRUN_FOLDER="$folder"
    export LONGRUN_PROGRESS=/runs/tiny/jobs/train/progress.json
    exec python3 -m longrun.launch.start_nodes 2 bash /runs/tiny/jobs/train/command.sh < /dev/null
  ) &
  child=$!
  while :; do  # a signal ends `wait`, not the command
    signal=''
    wait "$child"
    code=$?
    if [ -z "$signal" ]; then break; fi
  done
}

run
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
