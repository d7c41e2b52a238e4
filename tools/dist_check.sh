#!/bin/sh
# What a user does with the wheels in dist/: installs them in a clean environment outside the
# checkout, builds a slot, serves it and moderates by it. `make dist-check` runs it.
set -eu
checkout=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
serving=
trap '[ -z "$serving" ] || kill "$serving" 2>/dev/null; wait; rm -rf "$work"' EXIT
port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cd "$work"

"$PYTHON" -m venv venv
pip="venv/bin/pip --disable-pip-version-check install --quiet"
$pip --find-links "$checkout/dist" 'qwen3guard-server[cli,engine,build]'
venv/bin/pip --disable-pip-version-check check
venv/bin/guard build --checkpoint "$checkout/checkpoints/tiny-guard"

# Triton is not installed yet: `guard serve` names the command that does it. Then it is run.
if venv/bin/guard serve 2>said; then exit 1; fi
cat said
# shellcheck disable=SC2016  # the quotes are part of what it looks for
sh -ec "$(sed -n 's/.*`\(.*\)`.*/\1/p' said)"

venv/bin/guard serve --port "$port" --triton-port $((port + 1)) --metrics-port 0 2>said &
serving=$!
until grep -q 'is ready' said; do
    kill -0 "$serving" || { cat said; exit 1; }
    sleep 0.2
done
venv/bin/guard moderate --target "127.0.0.1:$port" 'How do I boil an egg?'
venv/bin/guard slots --target "127.0.0.1:$port"
echo "The wheels serve outside the checkout."
