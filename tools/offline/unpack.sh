#!/usr/bin/env bash
# On the machine without a network, in the repository's root:
#
#   . .gpu/unpack.sh                               the archive beside this script, into /tmp/meap-site
#   MEAP_BUNDLE=ARCHIVE.tar.xz MEAP_SITE=FOLDER . .gpu/unpack.sh
#
# (Variables, not arguments: a script that sources this one without arguments would pass its own on.)
# Verifies the archive and every file in it, unpacks, and sets the environment; run instead of sourced, it prints the lines to set.
# A folder that was unpacked and verified before is used again. docs/offline.md says what is in it.
_meap_unpack() {
    local here archive site python own nvidia folder bundled sources
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    archive=${MEAP_BUNDLE:-} site=${MEAP_SITE:-${TMPDIR:-/tmp}/meap-site}
    if [ -z "$archive" ]; then
        archive=$(find "$here" -maxdepth 1 -name 'gpu-bundle-*.tar.xz' | sort | tail -n 1)
    fi
    if [ ! -f "$archive" ]; then
        echo "unpack: error: no archive gpu-bundle-*.tar.xz beside $here/unpack.sh; set MEAP_BUNDLE to its path" >&2
        return 2
    fi
    python=$(command -v python3) || { echo "unpack: error: python3 is not on the path" >&2; return 2; }
    if [ ! -f "$site/env.sh" ] || [ "$archive" -nt "$site/env.sh" ]; then
        if [ -f "$archive.sha256" ]; then
            if ! (cd "$(dirname "$archive")" && sha256sum --quiet -c "$(basename "$archive").sha256") >&2; then
                echo "unpack: error: $archive is damaged; copy it again" >&2
                return 1
            fi
        fi
        if [ -e "$site/BUNDLE" ]; then rm -rf "$site"; fi
        if [ -n "$(ls -A "$site" 2>/dev/null)" ]; then
            echo "unpack: error: $site holds other files; set MEAP_SITE to an empty or new folder" >&2
            return 2
        fi
        mkdir -p "$site" || return 1
        # Python's own decompressor: xz may not be installed.
        if ! "$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1], "r:xz").extractall(sys.argv[2], filter="data")' \
            "$archive" "$site"; then
            echo "unpack: error: $archive could not be unpacked into $site" >&2
            return 1
        fi
        if ! (cd "$site" && sha256sum --quiet -c SHA256SUMS) >&2; then
            echo "unpack: error: a file in $site is damaged" >&2
            return 1
        fi
        bundled=$(head -n 1 "$site/BUNDLE")
        own=$("$python" -c 'import sys, torch
print(f"torch=={torch.__version__.partition(chr(43))[0]} cuda {torch.version.cuda} cp{sys.version_info[0]}{sys.version_info[1]}")')
        if [ "$own" != "$bundled" ]; then
            echo "unpack: error: the bundle is for $bundled, this machine has ${own:-no torch}; make one with --torch and --python" >&2
            return 2
        fi
        nvidia=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"] + "/nvidia")')
        {
            echo "export PYTHONPATH=$site\${PYTHONPATH:+:\$PYTHONPATH}"
            # Transformer Engine finds the libraries that torch was installed with.
            for folder in "$nvidia"/*/lib; do
                if [ -d "$folder" ]; then echo "export LD_LIBRARY_PATH=$folder\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"; fi
            done
            # And the headers of the kernels that it compiles at run time.
            for folder in "${CUDA_HOME:-/usr/local/cuda}/include" "$nvidia"/cu*/include; do
                if [ -f "$folder/cuda_runtime.h" ]; then
                    echo "export NVTE_CUDA_INCLUDE_DIR=$folder"
                    break
                fi
            done
            echo "export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false"
        } >"$site/env.sh"
    fi
    # A checkout that the archive travelled with is imported first, and needs the native module.
    if [ -d meap_megatron ] && ! "$python" -c 'import meap_megatron._C' 2>/dev/null; then
        bundled=$(sed -n 's/^csrc //p' "$site/BUNDLE")
        sources=$(cd csrc && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-12)
        if [ "$bundled" != "$sources" ]; then
            echo "unpack: error: the native module of the bundle is of other sources than csrc of $PWD; make the bundle again, or" >&2
            echo "unpack: build the module (python setup.py build_ext --inplace, same Python) and carry meap_megatron/_C*.so along" >&2
            return 2
        fi
        cp --remove-destination "$site"/meap_megatron/_C*.so meap_megatron/ || return 1
        echo "unpack: the native module was copied into $PWD/meap_megatron" >&2
    fi
    cat "$site/env.sh"
    # shellcheck disable=SC1091
    if [ "${BASH_SOURCE[0]}" != "$0" ]; then . "$site/env.sh"; fi
}
_meap_unpack
