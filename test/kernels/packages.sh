# shellcheck shell=bash
# Kernels, qemu and what the guest needs, as Debian packages unpacked below $cache; nothing is installed on this machine. Sourced by boot.
# A private apt does it: its own lists, cache and sources; of this system only the mirrors, the proxy and the archive's keys. It checks the
# signatures. Sets kernel=DIRECTORY with vmlinuz, release, root/lib/modules and initrd; qemu, virtiofsd, busybox, kmod, libs, qemu_data.

private_apt() { # NAME [STATUS FILE] -- SUITE...: sets apt=(options...) for a private apt of these suites
	local name=$1 status=$cache/apt/$1/empty
	shift
	if [[ $1 != -- ]]; then status=$1; shift; fi
	shift
	local directory=$cache/apt/$name
	mkdir -p "$directory"/{state/lists/partial,cache/archives/partial}
	: >>"$directory/empty"
	apt=(-qq -o "Dir::State=$directory/state" -o "Dir::Cache=$directory/cache" -o "Dir::State::status=$status"
		-o Dir::Etc::sourceparts=/dev/null -o "Dir::Etc::sourcelist=$directory/sources.list" -o Dir::Etc::preferencesparts=/dev/null
		-o Acquire::Languages=none -o APT::Sandbox::User=root -o APT::Architecture=amd64
		-o Acquire::Check-Valid-Until=false -o Acquire::Retries=3)
	write_sources "$directory/sources.list" "$@"
	apt-get "${apt[@]}" update || die "apt-get update failed for $*"
}

write_sources() { # FILE SUITE...
	local file=$1 suite uri uris
	shift
	# The first mirror of the archive, and of its security updates, that this system uses; or the one that was named.
	uris=${EBPF_LB_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | sort -u)}
	for suite; do
		case $suite in
			*-security) uri=$(grep security <<<"$uris" | head -n 1 || true) ;;
			*) uri=$(grep -v security <<<"$uris" | head -n 1 || true) ;;
		esac
		[[ $uri ]] || continue
		echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"
	done >"$file.new"
	[[ -s $file.new ]] || die "no Debian mirror in this system's apt sources; name one in EBPF_LB_DEBIAN_MIRROR"
	mv "$file.new" "$file"
}

locate_tools() { # ROOT
	qemu=$1/usr/bin/qemu-system-x86_64
	virtiofsd=$1/usr/lib/qemu/virtiofsd # up to Debian 12; a package of its own since
	[[ -x $virtiofsd ]] || virtiofsd=$1/usr/libexec/virtiofsd
	busybox=$1/bin/busybox
	[[ -x $busybox ]] || busybox=$1/usr/bin/busybox
	kmod=$1/bin/kmod
	[[ -x $kmod ]] || kmod=$1/usr/bin/kmod
	[[ -x $qemu && -x $virtiofsd && -x $busybox && -x $kmod ]]
}

# This system's qemu and friends if all are installed, else private copies. qemu before 9 is not used: with two emulated CPUs, Debian 12's 7.2
# gave a "double fault" panic in one boot of six. Its virtiofsd is good, though.
find_tools() {
	local tools=$cache/tools major
	libs=() qemu_data=()
	if locate_tools '' && ! ldd "$busybox" &>/dev/null; then
		major=$("$qemu" --version | sed -nE '1s/.*version ([0-9]+)\..*/\1/p')
		if ((${major:-0} >= 9)); then return; fi
	fi
	[[ -d $tools ]] || download_tools "$tools"
	locate_tools "$tools" || die "incomplete: $tools (remove it to download it again)"
	libs=(env "LD_LIBRARY_PATH=$tools/usr/lib/x86_64-linux-gnu:$tools/lib/x86_64-linux-gnu")
	qemu_data=(-L "$tools/usr/share/qemu" -L "$tools/usr/share/seabios")
}

download_tools() { # DIRECTORY
	local fresh=$1.new codename deb packages=(qemu-system-x86 busybox-static kmod)
	say "downloading qemu, virtiofsd, busybox and kmod"
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	private_apt tools /var/lib/dpkg/status -- "$codename" "$codename-updates" "$codename-security" "$codename-backports"
	rm -rf "$fresh" "$cache"/apt/tools/cache/archives/*.deb
	mkdir -p "$fresh"
	if apt-cache "${apt[@]}" show virtiofsd &>/dev/null; then
		packages+=(virtiofsd)
	else # Debian 12: still a part of the older qemu
		(cd "$fresh" && apt-get "${apt[@]}" download qemu-system-common/"$codename" >/dev/null &&
			dpkg-deb --fsys-tarfile ./*.deb | tar -x ./usr/lib/qemu/virtiofsd && rm ./*.deb) || die "cannot download virtiofsd"
	fi
	apt-get "${apt[@]}" install --reinstall --download-only -y --no-install-recommends -t "$codename-backports" "${packages[@]}" >/dev/null ||
		die "cannot download ${packages[*]}"
	for deb in "$cache"/apt/tools/cache/archives/*.deb; do dpkg-deb -x "$deb" "$fresh"; done
	rm -f "$cache"/apt/tools/cache/archives/*.deb
	mv "$fresh" "$1"
}

suites_of() { # SERIES: the Debian releases that carry it
	case $1 in
		5.10) echo bullseye bullseye-security ;;
		6.1) echo bookworm bookworm-security ;;
		6.12) echo trixie trixie-security ;;
		*) echo trixie-backports sid ;;
	esac
}

# The highest version that matches is taken, and then kept: the same KERNEL is the same kernel until --update.
get_kernel() { # KERNEL
	local chosen=$cache/select/$flavour/$1 suites best name version
	[[ $1 =~ ^[0-9]+(\.[0-9]+)+$ ]] || die "not a kernel version: $1"
	if [[ -e $chosen/initrd ]] && ! ((update)); then
		kernel=$(realpath "$chosen")
		return
	fi
	read -ra suites <<<"$(suites_of "$(cut -d. -f1,2 <<<"$1")")"
	say "looking for $1 in ${suites[*]}"
	private_apt "${suites[0]}" -- "${suites[@]}"
	best=$(apt-cache "${apt[@]}" search --names-only "^linux-image-[0-9].*[0-9]-$flavour\$" | cut -d' ' -f1 |
		xargs -r apt-cache "${apt[@]}" madison | tr -d ' ' |
		awk -F'|' -v w="$1" 'index($2, w ".") == 1 || index($2, w "-") == 1 || index($2, w "~") == 1 { print $2, $1 }' |
		sort -V | tail -n 1)
	[[ $best ]] || die "no linux-image-*-$flavour $1 in ${suites[*]}"
	read -r version name <<<"$best"
	kernel=$cache/kernels/${name#linux-image-}_$version
	[[ -e $kernel/initrd ]] || download_kernel "$name" "$version"
	mkdir -p "${chosen%/*}"
	ln -sfn "$kernel" "$chosen"
}

download_kernel() { # NAME VERSION
	local fresh=$kernel.new file release dependency packages=("$1=$2")
	# Newer packages are split: the image depends on linux-base-*, -binary-* and -modules-*.
	for dependency in $(apt-cache "${apt[@]}" show "$1=$2" | sed -n 's/^Depends: //p' | tr ',' '\n' |
		grep -oE 'linux-(base|binary|modules)-[0-9][^ ]*' || true); do
		packages+=("$dependency=$2")
	done
	say "downloading ${packages[*]}"
	rm -rf "$fresh"
	mkdir -p "$fresh/debs"
	(cd "$fresh/debs" && apt-get "${apt[@]}" download "${packages[@]}" >/dev/null) || die "cannot download ${packages[*]}"
	for file in "$fresh"/debs/*.deb; do dpkg-deb -x "$file" "$fresh/root"; done
	rm -r "$fresh/debs"
	file=$(find "$fresh/root" -name 'vmlinuz*' -type f | head -n 1)
	[[ $file ]] || die "no kernel image in ${packages[*]}"
	mv "$file" "$fresh/vmlinuz"
	[[ -d $fresh/root/lib/modules ]] || ln -s usr/lib "$fresh/root/lib"
	release=$(ls "$fresh/root/lib/modules")
	echo "$release" >"$fresh/release"
	make_initrd "$fresh" "$release"
	rm -rf "$kernel"
	mv "$fresh" "$kernel"
}

as() { (exec -a "$1" "$kmod" "${@:2}"); } # kmod as depmod, modprobe, ...
pack() { (cd "$1" && find . | "$busybox" cpio -o -H newc 2>/dev/null); }

# What mounts the shared root; guest/init and guest/start come with each boot, so that the cache does not hold old ones.
make_initrd() { # DIRECTORY RELEASE
	local initrd=$1/initrd.d module verb file name
	as depmod -b "$1/root" "$2"
	mkdir -p "$initrd"/{bin,mod,proc,sys,dev,host,rw,root}
	cp "$busybox" "$initrd/bin/busybox"
	cp "$kmod" "$initrd/bin/kmod"
	for module in virtio_pci virtio_console virtiofs overlay; do
		as modprobe -d "$1/root" -S "$2" --show-depends "$module" >"$1/needed" || die "this kernel has no $module"
		while read -r verb file _; do
			[[ $verb == insmod ]] || continue
			name=${file##*/} name=${name%%.ko*}.ko
			grep -qxF "$name" "$initrd/mod/order" 2>/dev/null && continue
			case $file in
				*.xz) xz -dc "$file" ;;
				*.zst) zstd -dcq "$file" ;;
				*.gz) gzip -dc "$file" ;;
				*) cat "$file" ;;
			esac >"$initrd/mod/$name"
			echo "$name" >>"$initrd/mod/order"
		done <"$1/needed"
	done
	pack "$initrd" >"$1/initrd" # not compressed: that is slower in emulation
	rm -rf "$initrd" "$1/needed"
}
