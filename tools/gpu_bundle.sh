#!/usr/bin/env bash
# Make one archive of what a GPU machine with torch, but without a network, lacks for this project (docs/offline.md).
#
#   tools/gpu_bundle.sh OUT                              for torch 2.11.0, Python 3.12, H100 or H200
#   tools/gpu_bundle.sh OUT --torch 2.10.0 --arch 100    another torch, another GPU architecture (sm_100)
#   tools/gpu_bundle.sh OUT --engine none                without Transformer Engine: the torch-only path
#
#   --torch VERSION      torch of that machine (2.11.0); Transformer Engine's extension is built against it
#   --engine VERSION     Transformer Engine (2.20.2), or none
#   --engine-wheel FILE  take this extension (transformer_engine_torch-*.whl) instead of building it, which takes half an hour
#   --arch NUMBER        the GPU architecture whose machine code is kept (90), or all
#   --package NAME==V    one more package, without its dependencies; may be repeated
#   --python FILE        Python of that machine's version (python3.12)
#   --work DIR           downloads and builds, kept for the next time (build/bundle)
#
# Needs a network (package names only), a C++ compiler and about 12 GB; no GPU. The CUDA toolkit's headers come from packages;
# with CUDA_HOME set, from there. Runs quietly beside other work: MAX_JOBS=1 unless set.
set -euo pipefail

# What megatron-core, Transformer Engine and this project import and a machine with torch and transformers lacks; versions are
# those of constraints.txt where it has them.
PACKAGES=(megatron-core gigatoken omegaconf psutil zstandard pydantic pydantic_core annotated-types typing-inspection)
# Transformer Engine imports ONNX's packages even where nothing is exported.
ENGINE_PACKAGES=(einops==0.8.2 onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 ml_dtypes==0.6.0 protobuf)

repository=$(cd "$(dirname "$0")/.." && pwd)
torch=2.11.0 engine=2.20.2 engine_wheel='' arch=90 python=python3.12 work=$repository/build/bundle out='' more=()

usage() { sed -n '2,/^set -euo/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "gpu_bundle: error: $1" >&2; exit 2; }

while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --torch | --engine | --engine-wheel | --arch | --package | --python | --work) (($# > 1)) || fail "$1 needs a value" ;;&
        --torch) torch=$2; shift 2 ;;
        --engine) engine=$2; shift 2 ;;
        --engine-wheel) engine_wheel=$2; shift 2 ;;
        --arch) arch=$2; shift 2 ;;
        --package) more+=("$2"); shift 2 ;;
        --python) python=$2; shift 2 ;;
        --work) work=$2; shift 2 ;;
        -*) fail "unknown option $1; see --help" ;;
        *) [ -z "$out" ] || fail "one folder is wanted, got $out and $1"; out=$1; shift ;;
    esac
done
[ -n "$out" ] || fail "give the folder for the archive; see --help"
[[ $arch =~ ^([0-9]+|all)$ ]] || fail "--arch $arch: expected a number such as 90, or all"
[ -z "$engine_wheel" ] || [ -f "$engine_wheel" ] || fail "--engine-wheel $engine_wheel: no such file"
for one in ${more[@]+"${more[@]}"}; do
    [[ $one == *==* ]] || fail "--package $one: expected NAME==VERSION"
done
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null || fail "$python is not Python 3.12 or newer; give --python"

mkdir -p "$out" "$work/wheels"
out=$(cd "$out" && pwd) work=$(cd "$work" && pwd)
export MAX_JOBS=${MAX_JOBS:-1} PIP_DISABLE_PIP_VERSION_CHECK=1

# The sources of the native module; unpack.sh has the same line.
sources() { (cd "$1/csrc" && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-12); }
step() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }
download() { "$venv/bin/python" -m pip download -q --no-deps --dest "$work/wheels" "$@"; }
pinned() { # NAME or NAME==VERSION -> NAME==VERSION
    [[ $1 == *==* ]] && { echo "$1"; return; }
    grep -i -m1 "^${1}==" "$repository/constraints.txt" || fail "constraints.txt has no version of $1"
}
wheel_of() { # NAME==VERSION -> its file, empty if it is not there
    local name=${1%%==*} version=${1##*==}
    find "$work/wheels" -iname "${name//[-_.]/[-_.]}-$version-*.whl" | sort | head -n 1
}

# 1. The torch of that machine: to build against, and with the build tools.
venv=$work/torch-$torch
if [ ! -f "$venv/done" ]; then
    step "torch $torch"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -q --no-compile "torch==$torch" numpy 'setuptools>=77' wheel ninja 'pybind11>=3.0' packaging
    touch "$venv/done"
fi
cuda=$("$venv/bin/python" -c 'import torch; print(torch.version.cuda or "")')
tag=$("$venv/bin/python" -c 'import sys; print(f"cp{sys.version_info[0]}{sys.version_info[1]}")')
[ "$engine" = none ] || [ -n "$cuda" ] || fail "torch $torch was built without CUDA; give --engine none"

# 2. Packages.
site=$work/site
rm -rf "$site"
mkdir -p "$site"
wanted=()
[ "$engine" = none ] || PACKAGES+=("${ENGINE_PACKAGES[@]}")
for one in "${PACKAGES[@]}" ${more[@]+"${more[@]}"}; do wanted+=("$(pinned "$one")"); done
if [ "$engine" != none ]; then
    wanted+=("transformer-engine==$engine" "transformer-engine-cu${cuda%%.*}==$engine")
fi
step "${#wanted[@]} packages"
for one in "${wanted[@]}"; do
    [ -n "$(wheel_of "$one")" ] || download --only-binary=:all: "$one"
    "$venv/bin/python" -m zipfile -e "$(wheel_of "$one")" "$site"
done

# 3. This project, its native module included.
step "$(basename "$repository")"
rm -rf "$work/own"
"$venv/bin/python" -m pip wheel -q --no-deps --no-build-isolation --wheel-dir "$work/own" "$repository"
"$venv/bin/python" -m zipfile -e "$work"/own/*.whl "$site"

# 4. Transformer Engine: its extension for this torch, and one architecture of its library.
if [ "$engine" != none ]; then
    if [ -z "$engine_wheel" ]; then
        mkdir -p "$work/engine-torch$torch-$tag"
        engine_wheel=$(find "$work/engine-torch$torch-$tag" -name "transformer_engine_torch-$engine-*.whl" | head -n 1)
    fi
    if [ -z "$engine_wheel" ]; then
        packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
        if [ -z "${CUDA_HOME:-}" ]; then
            minor=$(cut -d. -f1-2 <<<"$cuda")
            "$venv/bin/python" -m pip install -q --no-deps "nvidia-cuda-nvcc==$minor.*" "nvidia-cuda-crt==$minor.*" \
                "nvidia-nvvm==$minor.*" "nvidia-cuda-cccl==$minor.*"
            CUDA_HOME=$packages/nvidia/cu${cuda%%.*}
        fi
        step "Transformer Engine $engine for torch $torch, with MAX_JOBS=$MAX_JOBS (half an hour of processor time)"
        headers=$CUDA_HOME/include
        for folder in "$packages"/nvidia/*/include; do headers+=:$folder; done
        # FORCE_BUILD: or its set-up looks for a ready binary elsewhere. NCCL_EP: for mixtures of experts, asks for a newer NCCL.
        env CUDA_HOME="$CUDA_HOME" CPATH="$headers" PATH="$venv/bin:$PATH" NVTE_BUILD_USE_NVIDIA_WHEELS=1 \
            NVTE_WITH_NCCL_EP=0 NVTE_PYTORCH_FORCE_BUILD=TRUE \
            "$venv/bin/python" -m pip wheel -q --no-deps --no-build-isolation --no-binary=:all: \
            --wheel-dir "$work/engine-torch$torch-$tag" "transformer-engine-torch==$engine"
        engine_wheel=$(find "$work/engine-torch$torch-$tag" -name "transformer_engine_torch-$engine-*.whl" | head -n 1)
    fi
    [[ $(basename "$engine_wheel") == transformer_engine_torch-"$engine"-"$tag"-* ]] ||
        fail "$(basename "$engine_wheel") is not the extension of Transformer Engine $engine for Python $tag"
    "$venv/bin/python" -m zipfile -e "$engine_wheel" "$site"
    # For other frameworks and for mixtures of experts.
    rm -rf "$site/transformer_engine/jax" "$site"/transformer_engine/wheel_lib/{libnccl_ep.so,nccl_ep}
    if [ "$arch" != all ]; then
        step "machine code of sm_$arch only"
        find "$site/transformer_engine" -name 'libtransformer_engine*.so' \
            -exec "$venv/bin/python" "$repository/tools/offline/keep_arch.py" --arch "$arch" {} +
    fi
    find "$site" -path '*transformer_engine*' -name '*.so' -exec strip --strip-all {} +
fi

# 5. The archive, its checksums, and what unpacks it.
step "archive"
find "$site" \( -name __pycache__ -o -name '*.pyi' \) -prune -exec rm -rf {} +
{
    echo "torch==$torch cuda $cuda $tag"
    echo "csrc $(sources "$repository")"
    printf '%s\n' "${wanted[@]}" "meap-megatron $(git -C "$repository" rev-parse --short HEAD 2>/dev/null || echo unknown)"
    if [ "$engine" != none ]; then echo "$(basename "$engine_wheel") sm_$arch"; fi
} >"$site/BUNDLE"
(cd "$site" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" "$site/"
name=gpu-bundle-torch$torch-$tag
[ "$engine" = none ] || name+=-te$engine-sm$arch
# The same input gives the same archive, byte for byte.
tar -C "$site" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -c . | xz -6 -T1 >"$out/$name.tar.xz"
(cd "$out" && sha256sum "$name.tar.xz" >"$name.tar.xz.sha256")
cp "$repository/tools/offline/unpack.sh" "$out/"
step "$out/$name.tar.xz: $(du -h --apparent-size "$out/$name.tar.xz" | cut -f1), unpacked $(du -sh "$site" | cut -f1)"
