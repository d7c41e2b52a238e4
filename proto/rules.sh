#!/bin/sh
# Holds the contract in a directory to buf's rules, and to the contracts that callers already have:
# the frozen one and main's. Usage, from the repository's root: sh proto/rules.sh [DIRECTORY]
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
for main in origin/main main; do
    # A main without rules has promised nothing yet.
    git cat-file -e "$main:proto/buf.yaml" 2>/dev/null || continue
    mkdir "$work/main"
    git archive "$main" proto | tar -x -C "$work/main"
    compile "$work/main/proto" "$work/main.binpb"
    breaking "$work/main.binpb" "the contract on $main"
    break
done
