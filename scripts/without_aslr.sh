#!/usr/bin/env bash
# Runs a command without address space randomisation where the kernel allows that: the thread
# sanitizer of g++ 12 cannot map its shadow under vm.mmap_rnd_bits above 28.
set -euo pipefail
if setarch "$(uname -m)" -R true 2>/dev/null; then exec setarch "$(uname -m)" -R "$@"; fi
exec "$@"
