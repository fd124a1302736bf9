#!/usr/bin/env bash
# Installs with apt what the build needs and the machine lacks; silent when nothing is missing.
#
#   scripts/install.sh light   what `cortex` needs (`download` and MATLAB files want full)
#   scripts/install.sh full    and the tests and cortex-train (LibTorch)
#   scripts/install.sh check   and the tools of `make check-all` (clang, clang-format, clang-tidy, prometheus, wrk)
#   scripts/install.sh bench   full, and the peers of `make bench` (oneDNN; ONNX Runtime from npm)
#
# Exits 2 without root, after printing the line to run.
set -euo pipefail

level=${1:-light}
case $level in
  light | full | check | bench) ;;
  -h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  *)
    echo "install.sh: unknown level '$level' (light, full, check or bench)" >&2
    exit 2
    ;;
esac
if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "install.sh: this machine has no apt; the packages are named in scripts/install.sh" >&2
  exit 2
fi

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }
candidate() {
  LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -v '^(none)$' || true
}
at_least() { [[ -n $1 ]] && dpkg --compare-versions "$1" ge "$2"; }

is_root() { [[ $(id -u) == 0 ]]; }
updated=no
update_lists() {
  if [[ $updated == no ]] && is_root; then
    apt-get update -qq || echo "install.sh: apt-get update failed, going on with the old lists" >&2
    updated=yes
  fi
}

missing=()
want() { installed "$1" || missing+=("$1"); }

# Beast needs Boost 1.74; several Boost -dev packages cannot be installed side by side.
want_boost() {
  local package
  for package in libboost1.81-dev libboost1.83-dev libboost1.74-dev libboost-dev; do
    installed "$package" && return 0
  done
  [[ -n $(candidate libboost-dev) ]] || update_lists
  for package in libboost1.81-dev libboost1.83-dev; do
    if [[ -n $(candidate "$package") ]]; then
      missing+=("$package")
      return 0
    fi
  done
  missing+=(libboost-dev)
}

# Settings from files (--config); a release without it builds all else.
want_toml() {
  installed libtomlplusplus-dev && return 0
  # Where there are lists, one that does not name it will not do so after an update either.
  [[ -n $(candidate libcli11-dev) ]] || update_lists
  if [[ -n $(candidate libtomlplusplus-dev) ]]; then missing+=(libtomlplusplus-dev); fi
}

# Any LibTorch from 1.13 on will do, wherever it lies.
torch_given() { [[ -n ${CORTEX_TORCH_ROOT:-} || ${CMAKE_PREFIX_PATH:-} == *torch* ]]; }
want_torch() {
  torch_given && return 0
  installed libtorch-dev && { want libopenblas0-openmp; want libgloo-dev; return 0; }
  [[ -n $(candidate libtorch-dev) ]] || update_lists
  if at_least "$(candidate libtorch-dev)" 1.13; then
    missing+=(libtorch-dev)
    want libopenblas0-openmp
    want libgloo-dev
  else
    echo "install.sh: apt has no libtorch-dev >= 1.13 here. cortex-train needs one: unpack any" >&2
    echo "  LibTorch >= 1.13 and set CORTEX_TORCH_ROOT=/path/to/libtorch (CMAKE_PREFIX_PATH works" >&2
    echo "  too)." >&2
  fi
}

want_clang() {
  local major
  want clang
  want clang-format
  want clang-tidy
  [[ -n $(candidate clang) ]] || update_lists
  major=$(candidate clang | sed -E 's/^[0-9]+://; s/\..*//')
  # The sanitizer and fuzzer run-times are a package of their own on some releases.
  if [[ -n $major && -n $(candidate "libclang-rt-$major-dev") ]]; then want "libclang-rt-$major-dev"; fi
}

for package in make g++ cmake ninja-build libfmt-dev libspdlog-dev libsimdjson-dev libhdf5-dev zlib1g-dev \
  libcli11-dev libssl-dev; do
  want "$package"
done
want_boost
want_toml
if ! installed ccache && [[ -n $(candidate ccache) ]]; then missing+=(ccache); fi
if [[ $level != light ]]; then
  want libgtest-dev
  want python3
  want libcurl4-openssl-dev
  want libmatio-dev
  want librapidcheck-dev
  want pybind11-dev
  want python3-dev
  want python3-numpy
  want libbenchmark-dev
  want_torch
fi
if [[ $level == check ]]; then
  want_clang
  # Clients that are not ours; a nodejs from elsewhere brings an npm of its own.
  want curl
  want prometheus
  want wrk
  command -v npm >/dev/null || { want nodejs; want npm; }
fi
if [[ $level == bench ]]; then
  want libdnnl-dev
  want python3-onnx
  # A nodejs from elsewhere brings an npm of its own.
  command -v npm >/dev/null || { want nodejs; want npm; }
fi

if ((${#missing[@]})); then
  line="apt-get install -y --no-install-recommends ${missing[*]}"
  if ! is_root; then
    echo "install.sh: missing packages; as root, run:" >&2
    echo "  $line" >&2
    exit 2
  fi
  echo "install.sh: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  for package in "${missing[@]}"; do
    if [[ -z $(candidate "$package") ]]; then update_lists; fi
  done
  if ! $line -qq </dev/null >/dev/null; then
    # Lists of some age name versions that the mirror no longer has.
    update_lists
    $line -qq </dev/null
  fi
fi

# The pthread OpenBLAS fights LibTorch's own OpenMP threads: with both there, the OpenMP one serves.
if [[ $level != light ]] && installed libopenblas0-openmp; then
  triplet=$(uname -m)-linux-gnu
  for library in libblas liblapack; do
    link=$library.so.3-$triplet
    choice=/usr/lib/$triplet/openblas-openmp/$library.so.3
    current=$(readlink -f "/etc/alternatives/$link" 2>/dev/null || true)
    if [[ -e $choice && $current != "$(readlink -f "$choice")" ]]; then
      if is_root; then
        update-alternatives --set "$link" "$choice" >/dev/null
      else
        echo "install.sh: for full speed, as root: update-alternatives --set $link $choice" >&2
      fi
    fi
  done
fi

# What a folder's package.json names, from npm. Scripts of packages are not run: that of ONNX Runtime
# fetches CUDA libraries, the CPU library is in the package itself.
from_npm() {
  local folder package=$2 otherwise=$3
  folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/../$1" && pwd)
  [[ -d $folder/node_modules/$package ]] && return 0
  echo "install.sh: installing $package into $1/node_modules"
  npm install --prefix "$folder" --ignore-scripts --no-audit --no-fund --no-package-lock \
    --loglevel=error >/dev/null || echo "install.sh: npm failed: $otherwise" >&2
}
if [[ $level == check ]]; then from_npm tests/serve/clients ws "serve_client_node will be skipped"; fi
if [[ $level == bench ]]; then
  from_npm benchmarks/peers onnxruntime-node "ONNX Runtime will be missing among the peers"
fi

gxx=$(g++ -dumpfullversion -dumpversion 2>/dev/null || true)
at_least "$gxx" 11 || { echo "install.sh: g++ $gxx is too old, 11 is the least" >&2; exit 1; }
cmake_version=$(cmake --version 2>/dev/null | sed -n '1s/.* //p')
at_least "$cmake_version" 3.22 ||
  { echo "install.sh: cmake $cmake_version is too old, 3.22 is the least" >&2; exit 1; }
