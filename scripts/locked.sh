#!/usr/bin/env bash
# Runs a command while no other set-up or build of this checkout runs: locked.sh COMMAND [ARGUMENT]...
# The lock is on the directory itself, so nothing has to be created or cleaned up. It ends with the command (-o: a daemon that the
# command leaves behind does not keep it).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [[ ${EBPF_LB_LOCKED:-} == "$root" ]]; then exec "$@"; fi # already inside
command -v flock >/dev/null || { echo "locked.sh: flock is missing (Debian: util-linux)" >&2; exit 1; }
export EBPF_LB_LOCKED=$root
flock -n -o "$root" true || echo "waiting for another build of this checkout" >&2
exec flock -o "$root" "$@"
