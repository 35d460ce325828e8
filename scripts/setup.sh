#!/usr/bin/env bash
# Installs the system packages that are missing (Debian, Ubuntu), and only those. Idempotent; quick when nothing is missing.
#   scripts/setup.sh           what building and testing need
#   scripts/setup.sh --check   only says what is missing, exit status 1 if anything is
set -euo pipefail

missing=() # package, or a list of alternatives a|b|c of which the first that apt knows is installed

want() { # COMMAND PACKAGE: /usr/sbin is not in everybody's PATH
	PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || missing+=("$2")
}

want_library() { # NAME MINIMUM PACKAGE
	command -v pkg-config >/dev/null && pkg-config --exists "$1 >= $2" || missing+=("$3")
}

have_clang() { # any clang that knows -mcpu=v3 atomics and can emit BPF
	local c
	for c in clang-19 clang-2{0..9} clang-1{8..4} clang; do
		command -v "$c" >/dev/null && (($("$c" -dumpversion | cut -d. -f1) >= 14)) && return
	done
	return 1
}

have_bpftool() { # Ubuntu's /usr/sbin/bpftool is a script that fails unless the tools of the running kernel are there
	local b
	for b in "$(PATH=$PATH:/usr/sbin command -v bpftool)" /usr/lib/linux-tools/*/bpftool /usr/lib/linux-tools-*/bpftool; do
		[[ -x $b ]] && "$b" version >/dev/null 2>&1 && return
	done
	return 1
}

find_missing() {
	missing=()
	want cmake cmake
	want ninja ninja-build
	want g++ g++
	want make make
	want pkg-config pkg-config
	want flock util-linux
	have_clang || missing+=('clang-19|clang-18|clang-17|clang-16|clang-15|clang-14|clang')
	have_bpftool || missing+=('bpftool|linux-tools-generic')
	want_library libbpf 1.1 libbpf-dev
	want_library libelf 0.170 libelf-dev
	want_library zlib 1.2 zlib1g-dev
	# tests, labs and demo
	want ip iproute2
	want curl curl
	want ethtool ethtool
}

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

if [[ $(uname -s) != Linux ]]; then
	die "this is $(uname -s); ebpf-lb is built and tested on Linux only (importing the published package works anywhere)"
fi
find_missing
if ((${#missing[@]} == 0)); then
	say "nothing is missing"
	exit 0
elif [[ ${1:-} == --check ]]; then
	die "missing: ${missing[*]}"
fi

command -v apt-get >/dev/null || die "missing: ${missing[*]} (Debian names); apt-get is not there, so install their equivalents with this system's package manager"
sudo=()
if ((EUID != 0)); then
	sudo -n true 2>/dev/null || die "missing: ${missing[*]}; run 'sudo scripts/setup.sh' once to install them"
	sudo=(sudo -n)
fi

# One at a time on the machine: apt's own lock timeout does not cover 'update'.
exec 9</var/lib/dpkg
flock 9 2>/dev/null || true # flock may be among what is missing
find_missing                # another run may just have installed it

apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" 9>&- </dev/null; }
known() { [[ $(LC_ALL=C apt-cache policy "$1" 2>/dev/null) == *'Candidate: '[^\(]* ]]; }
choose() { # sets packages from missing; fails when apt knows none of the alternatives
	local entry alternatives name
	packages=()
	for entry in "${missing[@]}"; do
		IFS='|' read -ra alternatives <<<"$entry"
		for name in "${alternatives[@]}"; do
			if known "$name"; then packages+=("$name"); continue 2; fi
		done
		return 1
	done
}

if ((${#missing[@]} > 0)); then
	say "missing: ${missing[*]}"
	# An image without package lists knows nothing, one with old lists fails to download: refresh in both cases, otherwise save the time.
	if ! choose || ! apt install -y --no-install-recommends "${packages[@]}" >/dev/null 2>&1; then
		say "refreshing the package lists"
		apt update
		choose || die "apt knows no package for one of: ${missing[*]}"
		say "installing ${packages[*]}"
		apt install -y --no-install-recommends "${packages[@]}" >/dev/null
	fi
fi
find_missing
((${#missing[@]} == 0)) || die "still missing after the installation: ${missing[*]} (libbpf must be 1.1 or newer: Debian 12, Ubuntu 23.10 and later have it)"
say "done"
