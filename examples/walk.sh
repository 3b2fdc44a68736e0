#!/bin/sh
# Walks through an example as somebody would who has the installed package and no checkout.
#
#     examples/walk.sh NAME [DIRECTORY]
#
# Copies examples/NAME into DIRECTORY (a new temporary one by default), and there trains, ablates, exports, predicts
# and verifies with the `jopt` of the wheel, which it builds and installs into DIRECTORY/venv. What the wheel depends on
# comes from the environment of $PYTHON, by default the checkout's .venv. Flags of `jopt train` can be in $FLAGS.
set -eu
checkout=$(cd "$(dirname "$0")/.." && pwd)
name=$1
directory=${2:-$(mktemp -d)}
python=${PYTHON:-$checkout/.venv/bin/python}

mkdir -p "$directory"
cd "$directory"
if [ ! -x venv/bin/jopt ]; then
    # From a copy, since a build writes into the sources.
    mkdir source && cp -R "$checkout/jopt" "$checkout/pyproject.toml" "$checkout/README.md" source/
    "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir wheel ./source
    "$python" -m venv --without-pip venv
    site=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -m pip --quiet --disable-pip-version-check --python venv/bin/python install --no-deps wheel/jopt-*.whl
    # After the wheel's own directory on the search path: of two installed jopt the wheel's is imported.
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/dependencies.pth"
fi
PATH=$directory/venv/bin:$PATH
unset PYTHONPATH
rm -rf "project/$name" && mkdir -p project && cp -R "$checkout/examples/$name" "project/$name"
cd "project/$name"
case $(python -c 'import jopt; print(jopt.__file__)') in
"$directory"/venv/*) ;;
*) echo "jopt is not the wheel's" >&2; exit 1 ;;
esac

timed() {
    echo "\$ $*"
    start=$(date +%s)
    "$@" || { status=$?; echo "status $status" >&2; exit "$status"; }
    echo "seconds: $(($(date +%s) - start))"
}
for script in make_*.py; do
    if [ -e "$script" ]; then timed python "$script"; fi
done
timed jopt train --config=config.py --workdir=runs/first ${FLAGS:-}
if [ -e ablation.py ]; then timed jopt ablate --config=ablation.py --workdir=runs/grid; fi
timed jopt export runs/first --trust --out=release --format="${FORMATS:-packed,stablehlo,onnx}"
timed jopt predict runs/first/model.jopt --trust
timed jopt verify runs/first --trust
