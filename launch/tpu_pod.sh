#!/usr/bin/env bash
# Runs one stage on all workers of a TPU slice, from your own machine, through gcloud.
#
#   bash launch/tpu_pod.sh --tpu=NAME --zone=ZONE [--project=P] [--dry_run] STAGE [flags of automem STAGE]
#   bash launch/tpu_pod.sh --tpu=my-v6e-16 --zone=us-east5-b train \
#       --config=configs/qwen2_5_32b_crafter.py --workdir=/mnt/shared/crafter
#
# It copies this repository's tracked files to every worker, installs there (extras api,tpu), starts the
# stage on all of them and shows what they print. The work directory must lie on a disk that all workers
# share, mounted at the same place (Filestore, a bucket through gcsfuse); compiled programs are kept there too.
#
#   --dry_run   prints the commands and runs none
#   --skip_install   the workers have the files already
#   --stop      tells the run to save and end (no stage needed)
#   --recreate=COMMAND   makes a slice that was taken away anew, e.g. a script around `gcloud ... create`
#
# The run is detached: a lost connection does not end it, and the same command attaches to it again. On a
# worker, SIGTERM saves the state (status 75) and other failures are tried again, see launch/restart.sh. Where
# the connection fails, or the slice is not READY, this script tries RESTARTS times (default 10),
# RESTART_DELAY_S apart (30). A slice that was taken away and has no --recreate ends it with 75.
#
# Logs: logs/NAME.log here (LOGS: another directory), WORKDIR/logs/HOST-N.log of each worker.
set -euo pipefail

say() { echo "automem launch: $*" >&2; }
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
wrong() {
  echo "tpu_pod.sh: $*; see bash launch/tpu_pod.sh --help" >&2
  exit 2
}

# --- on a worker -------------------------------------------------------------------------------------------

state="$HOME/.automem_run" # pid, status, command and log of this worker's run

metadata() {
  curl --silent --fail --max-time 10 --header "Metadata-Flavor: Google" \
    "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance/attributes/$1"
}

# Runs the stage here until it is done.
supervise() {
  local number peers count first status=0
  cd "$(dirname "$0")/.."
  if [ -z "${AUTOMEM:-}" ]; then
    if [ -x .venv/bin/python ]; then export PYTHON=.venv/bin/python; fi
    # shellcheck source=launch/environment.sh
    . launch/environment.sh api,tpu
    AUTOMEM=automem
  fi
  # shellcheck source=launch/restart.sh
  . launch/restart.sh
  number="$(metadata agent-worker-number)"
  peers="$(metadata worker-network-endpoints)" # HOST,HOST or NAME:ID:ADDRESS,NAME:ID:ADDRESS
  count="$(tr ',' '\n' <<<"$peers" | wc -l)"
  first="${peers%%,*}"
  if [ "$count" -gt 1 ]; then
    export JAX_COORDINATOR_ADDRESS="${first##*:}:${PORT:-8476}"
    export JAX_NUM_PROCESSES="$count" JAX_PROCESS_ID="$number"
  fi
  logs="$(logs_directory "$@")"
  mkdir -p "$logs"
  log="$logs/$(hostname)-$number.log"
  export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-${logs%/logs}/compilation_cache}"
  export PYTHONUNBUFFERED=1
  read -r -a command <<<"$AUTOMEM"
  command+=("$@")
  # shellcheck disable=SC2329  # keep_running calls it
  start() {
    "${command[@]}" > >(exec tee -ia "$log") 2>&1 &
    pids+=("$!")
    say "worker $number of $count: pid $!, log $log"
  }
  keep_running start || status=$?
  echo "$status" >"$state/status"
}

# Starts the run where none is going, and shows what it prints until it ends.
follow() {
  mkdir -p "$state"
  if ! flock --nonblock "$state/lock" true; then
    if [ "$(cat "$state/command")" != "$*" ]; then
      say "$(hostname) runs another command: $(cat "$state/command"); end it with --stop"
      echo "automem worker: status 2"
      exit 2
    fi
    say "$(hostname): attached to the run that is going"
  else
    rm -f "$state/status" "$state/stopped"
    echo "$*" >"$state/command"
    : >"$state/log"
    setsid flock --no-fork "$state/lock" bash "$0" --supervise "$@" >"$state/log" 2>&1 </dev/null &
    echo "$!" >"$state/pid"
  fi
  tail -n +1 --pid="$(cat "$state/pid")" -f "$state/log"
  status="$(cat "$state/status" 2>/dev/null || echo 1)"
  echo "automem worker: status $status$(cat "$state/stopped" 2>/dev/null)"
  exit "$status"
}

case "${1:-}" in
  --supervise)
    shift
    supervise "$@"
    exit 0
    ;;
  --follow)
    shift
    follow "$@"
    ;;
  "" | -h | --help)
    usage
    [ "$#" -gt 0 ] && exit 0 || exit 2
    ;;
esac

# --- on your own machine -----------------------------------------------------------------------------------

tpu="" zone="" project="" recreate="" dry_run=0 install=1 ending=0
while [ "$#" -gt 0 ]; do
  case "$1" in
    --tpu=?*) tpu="${1#*=}" ;;
    --zone=?*) zone="${1#*=}" ;;
    --project=?*) project="${1#*=}" ;;
    --recreate=?*) recreate="${1#*=}" ;;
    --dry_run) dry_run=1 ;;
    --skip_install) install=0 ;;
    --stop) ending=1 ;;
    -*) wrong "unknown flag $1 before the stage (flags are written --name=value)" ;;
    *) break ;;
  esac
  shift
done
[ -n "$tpu" ] || wrong "--tpu=NAME is missing"
[ -n "$zone" ] || wrong "--zone=ZONE is missing"
[ "$ending" -eq 1 ] || [ "$#" -gt 0 ] || wrong "the stage is missing, e.g. train"
if [ "$ending" -eq 0 ]; then
  case " $* " in *" --workdir=/"* | *" --workdir /"*) ;; *) wrong "give --workdir=/a/path/that/all/workers/share" ;; esac
fi
[ "$dry_run" -eq 1 ] || command -v gcloud >/dev/null || wrong "gcloud is not installed"

where=(--zone="$zone")
if [ -n "$project" ]; then where+=(--project="$project"); fi
logs="${LOGS:-logs}"
restarts="${RESTARTS:-10}"
directory=automem_jax # on the workers, below the home directory

run() { # prints the command in a dry run
  if [ "$dry_run" -eq 1 ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

on_all_workers() { run gcloud compute tpus tpu-vm ssh "$tpu" "${where[@]}" --worker=all --command="$1"; }

# TPU images may come with an older Python than 3.11: then uv fetches one.
# shellcheck disable=SC2016  # expanded on the workers
install_command='set -e
rm -rf automem_jax.new && mkdir automem_jax.new && tar -xzf automem_jax.tar.gz -C automem_jax.new
mkdir -p automem_jax && cp -R automem_jax.new/. automem_jax/ && rm -rf automem_jax.new && cd automem_jax
if ! python3 -c "import sys; sys.exit(sys.version_info < (3, 11))"; then
  python3 -m pip install --user --quiet uv
  export PATH="$HOME/.local/bin:$PATH"
  uv python install --quiet 3.12
  export PYTHON="$(uv python find 3.12)"
fi
. launch/environment.sh api,tpu'

install_everywhere() {
  local archive="$logs/automem_jax.tar.gz"
  # shellcheck disable=SC2016
  run bash -c 'cd "$1" && git ls-files -z | tar -czf "$2" --null --files-from=-' pack \
    "$(cd "$(dirname "$0")/.." && pwd)" "$(realpath -m "$archive")" || return
  run gcloud compute tpus tpu-vm scp "$archive" "$tpu:automem_jax.tar.gz" "${where[@]}" --worker=all || return
  on_all_workers "$install_command"
}

if [ "$ending" -eq 1 ]; then
  # shellcheck disable=SC2016
  on_all_workers 'echo " as told" >.automem_run/stopped; kill -TERM "$(cat .automem_run/pid)"'
  exit
fi

if [ "$dry_run" -eq 0 ]; then mkdir -p "$logs"; fi
attempt=0
while true; do
  output="$logs/$tpu.last"
  status=0
  if [ "$install" -eq 1 ]; then install_everywhere || status=$?; fi
  if [ "$status" -eq 0 ]; then
    follow_command="bash $directory/launch/tpu_pod.sh --follow$(printf ' %q' "$@")"
    if [ "$dry_run" -eq 1 ]; then
      on_all_workers "$follow_command"
      exit
    fi
    on_all_workers "$follow_command" 2>&1 | tee -i "$output" | tee -ia "$logs/$tpu.log" || status=$?
    # The workers say how they ended; gcloud's own status does not tell a failed run from a lost connection.
    worst="$(sed -n 's/.*automem worker: status \([0-9]*\).*/\1/p' "$output" | grep -vx 0 | sort -n | tail -n 1)" || true
    if [ -n "$worst" ] && { [ "$worst" -ne 75 ] || grep -q "worker: status 75 as told" "$output"; }; then
      say "the run ended with status $worst; logs: $logs/$tpu.log"
      exit "$worst"
    fi
    [ "$status" -ne 0 ] || exit 0
    if [ -n "$worst" ]; then status=75; fi
  fi
  if [ "$attempt" -ge "$restarts" ]; then
    say "status $status; not tried again after $restarts restarts; logs: $logs/$tpu.log"
    exit "$status"
  fi
  attempt=$((attempt + 1))
  sleep "${RESTART_DELAY_S:-30}"
  found="$(gcloud compute tpus tpu-vm describe "$tpu" "${where[@]}" --format="value(state)" || echo GONE)"
  if [ "$found" != READY ]; then
    if [ -z "$recreate" ]; then
      say "$tpu is $found. Create it again and run the same command: it goes on from the last checkpoint"
      exit 75
    fi
    say "$tpu is $found; creating it again"
    bash -c "$recreate" || say "--recreate ended with status $?"
  fi
  say "status $status (75: saved and stopped); try $attempt of $restarts"
done
