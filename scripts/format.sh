#!/usr/bin/env bash
# Formats the sources, or with --check says which are not formatted. C and C++ only where clang-format 19 is installed: other versions
# break lines differently.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
check=${1:-}

if [[ $check ]]; then biome=(format) c=(--dry-run --Werror); else biome=(format --write) c=(-i); fi
status=0
node_modules/.bin/biome "${biome[@]}" . || status=1
if command -v clang-format-19 >/dev/null; then
	# reasons.h is generated.
	find bpf native -name '*.[ch]' ! -name reasons.h -print0 -o -name '*.cc' -print0 | xargs -0 -r clang-format-19 "${c[@]}" || status=1
else
	echo "format: C and C++ left out, clang-format-19 is not installed" >&2
fi
exit $status
