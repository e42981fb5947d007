#!/usr/bin/env bash
# Runs one stage on a GPU node; pre-empted or broken, it is run again.
#
#   bash launch/gpu_node.sh STAGE [flags of automem STAGE]
#   bash launch/gpu_node.sh train --config=configs/qwen2_5_32b_crafter.py --workdir=runs/crafter
#
# One process sees all GPUs of the node. PROCESSES=8: a process a GPU, found by each other through PORT (8476).
# Several nodes without a scheduler: on each node, with a work directory and a repository that all share,
#   bash launch/gpu_node.sh train --coordinator=HOST0:8476 --processes=NODES --process_id=N ...
#
# Logs: WORKDIR/logs/HOST-N.log (LOGS: another directory). Compiled programs: JAX_COMPILATION_CACHE_DIR.
# Ctrl-C or SIGTERM: the step under way is saved, the status is 75, the same command goes on from there.
# RESTARTS, RESTART_DELAY_S, GRACE_S: see launch/restart.sh. EXTRAS: what to install (default api,cuda12).
# AUTOMEM: the command where it is installed already, e.g. AUTOMEM="python -m automem_jax".
set -euo pipefail

case "${1:---help}" in
  -h | --help)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    [ "$#" -gt 0 ] && exit 0 || exit 2
    ;;
  -*)
    echo "the stage comes first, e.g. bash launch/gpu_node.sh train $*" >&2
    exit 2
    ;;
esac
processes="${PROCESSES:-1}"
if ! [[ "$processes" =~ ^[1-9][0-9]*$ ]]; then
  echo "PROCESSES=$processes is not a number of processes" >&2
  exit 2
fi
here="$(cd "$(dirname "$0")" && pwd)"
if [ -z "${AUTOMEM:-}" ]; then
  if command -v flock >/dev/null; then # nodes that share the repository take turns
    mkdir -p "$here/../.venv.lock"
    exec 9>"$here/../.venv.lock/lock"
    flock 9
  fi
  # shellcheck source=launch/environment.sh
  . "$here/environment.sh" "${EXTRAS:-api,cuda12}"
  exec 9>&-
  AUTOMEM=automem
fi
# shellcheck source=launch/restart.sh
. "$here/restart.sh"
read -r -a command <<<"$AUTOMEM"
command+=("$@")
logs="$(logs_directory "$@")"
mkdir -p "$logs"

export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/automem_jax/xla}"
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
export PYTHONUNBUFFERED=1

first=0 # this node's number, where nodes were numbered by hand
for argument in "$@"; do
  case "$argument" in --process_id=*) first="${argument#*=}" ;; esac
done
first="${JAX_PROCESS_ID:-$first}"

start() {
  local number log
  for ((number = 0; number < processes; number++)); do
    log="$logs/$(hostname)-$((first + number)).log"
    (
      if [ "$processes" -gt 1 ]; then
        export JAX_COORDINATOR_ADDRESS="127.0.0.1:${PORT:-8476}"
        export JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$number" CUDA_VISIBLE_DEVICES="$number"
      fi
      exec "${command[@]}"
    ) > >(exec tee -ia "$log") 2>&1 &
    pids+=("$!")
    say "process $((first + number)): pid $!, log $log"
  done
}
keep_running start
