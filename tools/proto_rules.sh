#!/bin/sh
# Checks the contract in a directory against buf's rules and against the contracts that callers
# already use: the frozen one and main's. Usage: sh tools/proto_rules.sh [DIRECTORY], from the root.
set -eu
contract=${1:-proto}
bin=.venv/bin
googleapis=$($bin/python -c 'import google.rpc.status_pb2 as m, pathlib; print(pathlib.Path(m.__file__).parents[2])')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() { # DIRECTORY OUTPUT
    (cd "$1" && find . -name '*.proto' | sed 's,^\./,,' | sort) >"$work/files"
    xargs $bin/python -m grpc_tools.protoc -I"$1" -I"$googleapis" \
        --include_imports --include_source_info -o "$2" <"$work/files"
}

breaking() { # OLD, its name
    $bin/buf breaking "$work/new.binpb" --config proto/buf.yaml \
        --against "$1" --against-config proto/buf.yaml || {
        echo "This breaks callers of $2. Add new fields, values and calls instead." >&2
        exit 1
    }
}

$bin/buf format -d --exit-code "$contract"
compile "$contract" "$work/new.binpb"
$bin/buf lint "$work/new.binpb" --config proto/buf.yaml
compile tests/conformance/previous "$work/previous.binpb"
breaking "$work/previous.binpb" "the frozen contract, tests/conformance/previous"

# The last ten states of main, because in CI the change is already on main.
main=$(git rev-parse -q --verify origin/main || git rev-parse -q --verify main || echo HEAD)
for commit in $(git log --first-parent -n 10 --format=%h "$main" -- proto/qwen3guard); do
    # A state without rules has no contract yet.
    git cat-file -e "$commit:proto/buf.yaml" 2>/dev/null || continue
    mkdir "$work/$commit"
    git archive "$commit" proto | tar -x -C "$work/$commit"
    compile "$work/$commit/proto" "$work/$commit.binpb"
    breaking "$work/$commit.binpb" "the contract on main, $commit"
done
