# shellcheck shell=bash
# Sourced by the other scripts: keeps a stage running until it is done.
#
# Status 75 (stopped by SIGTERM, state saved) and 143 (by SIGTERM before there was any): run again. 2 (wrong
# usage): not again. Any other failure: again, RESTARTS times (default 3), RESTART_DELAY_S apart (default 10);
# the count begins afresh after a run of 10 minutes. The command itself goes on from its last checkpoint.
#
# SIGTERM or SIGINT to the script goes on to all its processes, which save and end; GRACE_S (default 110)
# later they are killed. Then the script ends with their status and nothing is run again.

RESTARTS="${RESTARTS:-3}"
RESTART_DELAY_S="${RESTART_DELAY_S:-10}"
GRACE_S="${GRACE_S:-110}"

pids=()      # of the processes that run now
told=0       # SIGTERM or SIGINT came
interrupted=0

say() { echo "automem launch: $*" >&2; }

# Passes the stop on; slurm.sbatch has its own way.
pass_on_stop() {
  if [ "${#pids[@]}" -gt 0 ]; then kill -TERM "${pids[@]}" 2>/dev/null || true; fi
}

stop() {
  interrupted=1
  if [ "$told" -eq 1 ]; then return; fi
  told=1
  say "told to stop; waiting up to $GRACE_S s for the state to be saved"
  pass_on_stop
  if [ "${#pids[@]}" -gt 0 ]; then
    # shellcheck disable=SC2016
    setsid bash -c 'sleep "$1"; shift; kill -KILL "$@"' killer "$GRACE_S" "${pids[@]}" >/dev/null 2>&1 &
    killer=$!
  fi
}
trap stop TERM INT

# The status of process $1, also where a signal interrupts the waiting.
wait_for() {
  local status last=""
  while true; do
    interrupted=0 status=0
    wait "$1" || status=$?
    if [ "$status" -eq 127 ] && [ -n "$last" ]; then return "$last"; fi # gone while interrupted
    if [ "$interrupted" -eq 0 ]; then return "$status"; fi
    last=$status
  done
}

# The status of them all: 0, else one that is neither 0 nor 75, else 75.
wait_for_all() {
  local pid one status=0
  for pid in "${pids[@]}"; do
    one=0
    wait_for "$pid" || one=$?
    if [ "$one" -ne 0 ] && { [ "$status" -eq 0 ] || [ "$status" -eq 75 ]; }; then status=$one; fi
  done
  pids=()
  if [ -n "${killer:-}" ]; then kill -TERM -- "-$killer" 2>/dev/null || true; fi
  return "$status"
}

# Calls $1, which starts processes and adds them to pids, until they are done.
keep_running() {
  local failures=0 status began
  while true; do
    began=$SECONDS status=0
    "$1"
    wait_for_all || status=$?
    if [ "$status" -eq 0 ]; then return 0; fi
    if [ "$told" -eq 1 ]; then
      say "stopped with status $status (75: saved); the same command goes on from there"
      return "$status"
    fi
    case "$status" in
      75 | 143)
        if [ "${RERUN_PREEMPTED:-1}" -eq 0 ]; then return "$status"; fi
        say "pre-empted (status $status); running again"
        ;;
      2 | 126 | 127)
        say "status $status: the command is wrong; not run again"
        return "$status"
        ;;
      *)
        if [ $((SECONDS - began)) -ge 600 ]; then failures=0; fi
        failures=$((failures + 1))
        if [ "$failures" -gt "$RESTARTS" ]; then
          say "failed with status $status; not run again after $RESTARTS restarts"
          return "$status"
        fi
        say "failed with status $status; restart $failures of $RESTARTS in $RESTART_DELAY_S s"
        ;;
    esac
    sleep "$RESTART_DELAY_S" &
    wait "$!" || true
    if [ "$told" -eq 1 ]; then return "$status"; fi
  done
}

# The directory of logs: LOGS, else WORKDIR/logs of the stage's flags, else logs.
logs_directory() {
  local argument found=logs next=0
  for argument in "$@"; do
    if [ "$next" -eq 1 ]; then found="$argument/logs" next=0; fi
    case "$argument" in
      --workdir=*) found="${argument#--workdir=}/logs" ;;
      --workdir) next=1 ;;
    esac
  done
  echo "${LOGS:-$found}"
}
