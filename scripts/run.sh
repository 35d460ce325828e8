#!/usr/bin/env bash
# What `npm run demo`, `npm test` and their like have in common: install what is missing, build what is out of date, then the thing itself.
#   run.sh demo|test|accept|bench|fuzz|test:kernels [ARGUMENT]...
# Set-up talks on standard error only; standard output belongs to the thing.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
what=${1:-}
[[ $# -gt 0 ]] && shift

case $what in
	demo) parts='addon ts examples' ;;
	bench) parts='addon ts' ;;
	fuzz) parts='bpf' ;;
	test | accept | test:kernels) parts='addon stop ts examples' ;;
	*) echo "usage: run.sh demo|test|accept|bench|fuzz|test:kernels [ARGUMENT]..." >&2; exit 2 ;;
esac

scripts/setup.sh >&2
# shellcheck disable=SC2086 # parts are words
scripts/locked.sh bash -c 'node scripts/install.mjs && node scripts/build.mjs "$@"' build $parts >&2 </dev/null

case $what in
	demo) exec node build/examples/demo.js "$@" ;;
	test) exec node scripts/test.mjs "$@" ;;
	accept) exec node scripts/test.mjs --accept "$@" ;;
	bench) exec node bench/run.mjs "$@" ;;
	fuzz) exec node test/packets/fuzz.mjs "$@" ;;
	test:kernels) exec test/kernels/run "$@" ;;
esac
