#!/usr/bin/env bash
# The first hour on a GPU: proves or disproves the GPU path step by step, cheapest first. You need
# docker with the NVIDIA container toolkit and a GPU of compute capability 8.9 or more.
#
#     deploy/gpu-acceptance.sh            # about an hour; results in .run/acceptance/result.json
#     python3 tools/gpu_page.py           # and their tables go into docs/gpu.md
#
# A step that fails is recorded, with the end of its log, and what needs it is skipped; all other
# steps still run. Exit code 1 if any step failed or was skipped. What a step finds out stands whole
# in result.json, as its `report`.
#
#     BASE=IMAGE@sha256:DIGEST   the image to build on (default: the tag that make gpu-build uses)
#     SMALL, LARGE               the checkpoints (default: Qwen3Guard-Gen 0.6B and 4B)
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

BASE=${BASE:-nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3}
SDK=${SDK:-nvcr.io/nvidia/tritonserver:26.07-py3-sdk}
SMALL=${SMALL:-Qwen/Qwen3Guard-Gen-0.6B}
LARGE=${LARGE:-Qwen/Qwen3Guard-Gen-4B}
OUT=.run/acceptance
SERVER=127.0.0.1:50051
READY_TRIES=${READY_TRIES:-150} # of two seconds
LINES_SHOWN=8 # of a log, for people: what a step found out is in its report

steps=() # JSON objects
failed=0
declare -A passed=()
started=$(date -u +%Y-%m-%dT%H:%M:%SZ)
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
rebuild='its log says which tool failed, or why the engine is refused. Finished stages are kept: mend it and start again'
declare -A todo=(
    [image]="docker must run and reach the registry. BASE=IMAGE names another image"
    [gpu]="docker must see the GPU: install the NVIDIA container toolkit"
    [versions]="BASE must be an image with TensorRT-LLM 1.2.1"
    [flags]="the tools are not those of TensorRT-LLM 1.2.1: build/guard_build/tensorrt_llm/flags_1_2_1.json is what a build assumes"
    [small_bf16]=$rebuild
    [small_fp8]=$rebuild
    [contract]="the gateway would misread this engine: each difference is in the report"
    [large_bf16]=$rebuild
    [large_fp8]=$rebuild
    [agreement]="do not deploy this engine: the report has every verdict that differs"
    [serve]="the engine's own log is $OUT/triton.log"
    [memory]="look for the figures in $OUT/triton.log"
    [load]="the server answers no call: read its log, docker compose logs gateway-gpu"
    [perf_analyzer]="a rejected call ends perf_analyzer; the step load has every status"
    [stop]="docker compose -f deploy/compose.yaml --profile gpu down"
    [w8a8]=$rebuild
    [w8a16]=$rebuild
)

# ---- reports

escaped() { # standard input, for strings in JSON, line by line
    iconv -c -f utf-8 -t utf-8 | tr -d '\000-\010\013-\037\177' |
        sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g'
}

json_string() { # standard input as one string
    escaped | awk 'BEGIN { printf "\"" } { printf "%s%s", sep, $0; sep = "\\n" } END { printf "\"" }'
}

json_lines() { # standard input as an array of strings, without empty lines
    escaped | awk 'BEGIN { printf "[" } /./ { printf "%s\"%s\"", sep, $0; sep = ", " } END { printf "]" }'
}

reported() { # NAME: shows standard input, and makes its lines the report of the step NAME
    local text
    text=$(cat)
    echo "$text"
    json_lines <<<"$text" >"$OUT/$1.json"
}

json_files() { # FILE...: an array of their values
    local file comma=
    printf '['
    for file; do
        [ ! -s "$file" ] || { printf '%s' "$comma" && cat "$file" && comma=,; }
    done
    printf ']'
}

# ---- what a step runs

guard() { # in the GPU image, on this checkout's slots
    docker run --rm --gpus all --ipc host --network host --user "$(id -u):$(id -g)" -e HOME=/tmp \
        -v "$PWD/model_repository:/guard/model_repository" -v "$PWD/.run:/guard/.run" \
        qwen3guard-gpu "$@"
}

in_image() { # COMMAND...: a shell command of the image's own tools
    docker run --rm --gpus all --entrypoint sh qwen3guard-gpu -c "$1"
}

build() { # FORMAT SLOT CHECKPOINT [OPTIONS]
    make gpu-build BASE="$BASE" FORMAT="$1" SLOT_NAME="$2" CHECKPOINT="$3" GPU_OPTIONS="${4:-}"
}

image() {
    docker pull "$BASE" &&
        docker build --build-arg BASE="$BASE" -f deploy/Dockerfile.gpu -t qwen3guard-gpu . &&
        docker image inspect --format '{{index .RepoDigests 0}}' "$BASE" | reported image
}

gpu() {
    in_image 'nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version --format=csv,noheader' |
        reported gpu
}

versions() { # the Python of trtllm-build has TensorRT-LLM
    # shellcheck disable=SC2016 # the container's shell expands it
    in_image '"$(sed -n "1s/^#!//p" "$(command -v trtllm-build)")" -c "
from importlib.metadata import version
for name in (\"tensorrt_llm\", \"tensorrt\", \"torch\", \"nvidia-modelopt\", \"transformers\", \"datasets\"):
    print(name, version(name))"' | reported versions
}

flags() { # every flag of every format is in its tool's help
    unknown_flags | reported flags
}

unknown_flags() {
    local format line program help flag unknown=0
    for format in bf16 fp8 w8a8 w8a16; do
        guard build --engine tensorrt-llm --format "$format" --checkpoint "$LARGE" --dry-run \
            >"$OUT/plan.txt" || return 1
        while read -r line; do
            program=${line%% --*}
            help=$(in_image "$program --help") || return 1
            while read -r flag; do
                grep -qE -- "$flag([^a-z_0-9]|$)" <<<"$help" || {
                    echo "$program has no $flag ($format)"
                    unknown=1
                }
            done < <(grep -oE -- ' --[a-z_0-9]+' <<<"$line")
        done < <(sed -nE 's/^(quantize|compile) +//p' "$OUT/plan.txt")
    done
    return "$unknown"
}

small_bf16() { build bf16 small_bf16 "$SMALL"; }
small_fp8() { build fp8 small_fp8 "$SMALL" "--against small_bf16 --json $OUT/small_fp8.json"; }
contract() { guard verify contract small_fp8 --json "$OUT/contract.json"; }
large_bf16() { build bf16 reference "$LARGE"; }
large_fp8() { build fp8 blue "$LARGE" "--against reference --json $OUT/large_fp8.json"; }
agreement() { guard verify blue --against reference --json "$OUT/agreement.json"; }
w8a8() { build w8a8 w8a8 "$LARGE" "--against reference --json $OUT/w8a8.json"; }
w8a16() { build w8a16 w8a16 "$LARGE" "--against reference --json $OUT/w8a16.json"; }

compose() { BASE="$BASE" SLOT=blue docker compose -f deploy/compose.yaml --profile gpu "$@"; }

engine_log() { compose cp engine-gpu:/guard/.run/triton-blue.log "$OUT/triton.log"; }

serve() {
    local try
    compose up --build --detach || return 1
    for ((try = 0; try < READY_TRIES; try++)); do
        guard moderate --target "$SERVER" 'How do plants grow?' && return 0
        sleep 2
    done
    engine_log && tail -n 20 "$OUT/triton.log"
    compose logs --tail 20
    return 1
}

memory() { # what the engine's log says of it, and what the GPU has
    local engine gpu
    gpu=$(in_image 'nvidia-smi --query-gpu=memory.used,memory.total --format=csv,noheader') &&
        engine_log || return 1
    engine=$(grep -iE 'memory|kv ?cache|blocks' "$OUT/triton.log")
    printf '%s\n' "$engine" "$gpu"
    printf '{"gpu": %s, "engine": %s}\n' "$(json_lines <<<"$gpu")" "$(json_lines <<<"$engine")" \
        >"$OUT/memory.json"
    [ -n "$engine" ] || { echo "The engine's log has no line about memory." && return 1; }
}

load() {
    local rate result=0 files=()
    for rate in 50 100 200 400 800; do
        files+=("$OUT/load-$rate.json")
        guard bench load "$SERVER" --rate "$rate" --seconds 20 --stream --connections 4 \
            --json "$OUT/load-$rate.json" || { result=1 && break; }
    done
    json_files "${files[@]}" >"$OUT/load.json"
    return "$result"
}

perf_analyzer() { # distinct texts, so that no answer comes from the cache
    local n comma=
    {
        printf '{"data": ['
        for ((n = 0; n < 2000; n++)); do
            printf '%s{"text": ["Question %d: how do I boil an egg?"]}' "$comma" "$n"
            comma=,
        done
        printf ']}\n'
    } >"$OUT/texts.json"
    docker run --rm --network host --user "$(id -u):$(id -g)" -v "$PWD/$OUT:/data" "$SDK" \
        perf_analyzer -m qwen3guard -i grpc -u "$SERVER" --input-data /data/texts.json \
        --concurrency-range 1:64:21 -p 5000 -f /data/perf_analyzer.csv || return 1
    json_lines <"$OUT/perf_analyzer.csv" >"$OUT/perf_analyzer.json"
}

stop() { compose down; }

# ---- running and recording

save() {
    local IFS=,
    cat >"$OUT/result.json.new" <<END
{"base": $(json_string <<<"$BASE"), "commit": "$commit", "started": "$started", "failed": $failed,
"steps": [${steps[*]}]}
END
    mv "$OUT/result.json.new" "$OUT/result.json"
}

step() { # NAME NEEDED...: runs the function NAME, unless a step that it needs has not passed
    local name=$1 start=$SECONDS result=passed needed report=null says=
    shift
    for needed in "$@"; do
        [ -n "${passed[$needed]:-}" ] || { result=skipped && says="needs the step $needed" && break; }
    done
    if [ "$result" = passed ]; then
        echo "== $name"
        "$name" >"$OUT/$name.log" 2>&1 || result=failed
        says=$(tail -n "$LINES_SHOWN" "$OUT/$name.log")
        [ ! -s "$OUT/$name.json" ] || report=$(<"$OUT/$name.json")
    fi
    if [ "$result" = passed ]; then passed[$name]=1; else failed=$((failed + 1)); fi
    printf '%-14s %-8s %5d s\n' "$name" "$result" $((SECONDS - start))
    [ "$result" = passed ] || echo "    ${says//$'\n'/$'\n    '}"
    [ "$result" != failed ] || printf '    -> %s\n    all of it: %s\n' "${todo[$name]}." "$OUT/$name.log"
    steps+=("{\"step\": \"$name\", \"result\": \"$result\", \"seconds\": $((SECONDS - start)), \"says\": $(json_string <<<"$says"), \"report\": $report}")
    save
}

rm -rf "$OUT" && mkdir -p "$OUT" || exit 2
step image
step gpu image
step versions image
step flags image
step small_bf16 image gpu
step small_fp8 small_bf16
step contract small_fp8
step large_bf16 small_bf16
step large_fp8 large_bf16
step agreement large_fp8
step serve large_fp8
step memory serve
step load serve
step perf_analyzer serve
step stop image
step w8a8 large_bf16
step w8a16 large_bf16
echo "$OUT/result.json; logs beside it. For the tables of docs/gpu.md: python3 tools/gpu_page.py"
[ "$failed" = 0 ]
