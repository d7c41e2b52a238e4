#!/bin/sh
# Prints the first Python that can serve. Usage: sh tools/find_python.sh [VERSION or COMMAND ...]
# Serving takes venv, and the shared library of Python, which Triton's stub loads.
set -eu
[ $# -gt 0 ] || set -- 3.11 3.12 3.13
check='
import ctypes, platform, sys, sysconfig
version = "{}.{}".format(*sys.version_info)
if version not in ("3.11", "3.12", "3.13") or (sys.platform, platform.machine()) != ("linux", "x86_64"):
    sys.exit(f"it is Python {version} for {sys.platform} on {platform.machine()}")
try:
    import ensurepip, venv
except ImportError:
    sys.exit(f"it can make no environment (on Debian: apt-get install python{version}-venv)")
library = sysconfig.get_config_var("INSTSONAME")
for path in (library, "{}/{}".format(sysconfig.get_config_var("LIBDIR"), library)):
    try:
        ctypes.CDLL(path)
        break
    except OSError:
        pass
else:
    sys.exit(f"its {library} is missing (on Debian: apt-get install libpython{version})")
print(sys.executable)
'
for wanted; do
    case $wanted in
    3.??)
        set -- "python$wanted" "${HOME:-/}/.pyenv/versions/$wanted".*/bin/"python$wanted" \
            "${HOME:-/}/.local/share/uv/python/cpython-$wanted"*/bin/"python$wanted"
        ;;
    *) set -- "$wanted" ;;
    esac
    for python; do
        # A name on PATH can be one of pyenv's, which runs nothing where its version is not chosen.
        "$python" -c '' 2>/dev/null || continue
        if found=$("$python" -c "$check" 2>&1); then
            echo "$found"
            exit
        fi
        echo "$python is not used: $found." >&2
    done
done
echo "No Python 3.11, 3.12 or 3.13 that can serve is found: run \`uv python install 3.12\`" \
    "(uv: https://docs.astral.sh/uv), then the same command again." >&2
exit 1
